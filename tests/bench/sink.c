// trackbus-sink: a broker that is not the limit. It acknowledges what is published and passes the messages on
// to the one subscriber, many in a write; it routes, retains and keeps nothing. To measure gateways with,
// when a real broker takes more of the machine than they do.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define INPUT_MAX  (1U << 18)
#define OUTPUT_MAX (1U << 20)
#define EVENTS_MAX 16

enum { CONNECT = 1, PUBLISH = 3, SUBSCRIBE = 8, PINGREQ = 12 };

struct buffer {
    size_t length;
    uint8_t bytes[OUTPUT_MAX];
};

struct client {
    int socket;
    unsigned version;
    size_t kept;
    uint8_t input[INPUT_MAX];
    struct buffer answers;
};

static struct client *subscriber; // speaks MQTT 3.1.1, the publishers 5
static struct buffer passed;      // to it

static void fail(const char *what) {
    fprintf(stderr, "trackbus-sink: %s\n", what);
    exit(1);
}

static void add(struct buffer *buffer, const void *bytes, size_t length) {
    if (length > sizeof buffer->bytes - buffer->length)
        fail("too much at once");
    memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
}

// Blocks when the other side does not read, and so holds back who publishes.
static void flush(int socket, struct buffer *buffer) {
    for (size_t done = 0; done < buffer->length;) {
        ssize_t wrote = send(socket, buffer->bytes + done, buffer->length - done, MSG_NOSIGNAL);
        if (wrote <= 0)
            break; // its end is seen when reading
        done += (size_t)wrote;
    }
    buffer->length = 0;
}

// Reads a number of MQTT's variable length; *at moves behind it. Larger than any packet when it is
// incomplete.
static size_t read_length(const uint8_t *bytes, size_t end, size_t *at) {
    size_t value = 0;
    for (unsigned shift = 0; *at < end && shift < 28; shift += 7) {
        uint8_t byte = bytes[(*at)++];
        value |= (size_t)(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0)
            return value;
    }
    return SIZE_MAX / 2;
}

static void pass_on(const uint8_t *topic, size_t topic_length, const uint8_t *payload, size_t length) {
    size_t rest = 2 + topic_length + length;
    uint8_t head[7] = {PUBLISH << 4};
    size_t used = 1;
    for (size_t left = rest; used == 1 || left > 0; left >>= 7)
        head[used++] = (uint8_t)((left & 0x7F) | (left > 0x7F ? 0x80 : 0));
    head[used++] = (uint8_t)(topic_length >> 8);
    head[used++] = (uint8_t)topic_length;
    add(&passed, head, used);
    add(&passed, topic, topic_length);
    add(&passed, payload, length);
}

static void take_publish(struct client *client, uint8_t flags, const uint8_t *packet, size_t length) {
    size_t topic_length = (size_t)packet[0] << 8 | packet[1], at = 2 + topic_length;
    if ((flags & 6) != 0) {
        add(&client->answers, (uint8_t[]){0x40, 2, packet[at], packet[at + 1]}, 4);
        at += 2;
    }
    size_t properties = client->version == 5 ? read_length(packet, length, &at) : 0;
    bool message = memmem(packet + 2, topic_length, "/message/", 9) != NULL;
    if (at + properties > length)
        fail("a packet that is none");
    if (subscriber != NULL && message)
        pass_on(packet + 2, topic_length, packet + at + properties, length - at - properties);
}

static void take_packet(struct client *client, uint8_t first, const uint8_t *packet, size_t length) {
    bool five = client->version == 5;
    switch (first >> 4) {
    case CONNECT:
        client->version = packet[6];
        if (client->version == 5)
            add(&client->answers, "\x20\3\0\0\0", 5);
        else
            add(&client->answers, "\x20\2\0\0", 4);
        break;
    case PUBLISH:
        take_publish(client, first, packet, length);
        break;
    case SUBSCRIBE: // of one topic
        if (!five)
            subscriber = client;
        add(&client->answers, (uint8_t[]){0x90, five ? 4 : 3, packet[0], packet[1], 0, 0}, five ? 6 : 5);
        break;
    case PINGREQ:
        add(&client->answers, "\xD0\0", 2);
        break;
    }
}

static void drop(struct client *client) {
    if (client == subscriber)
        subscriber = NULL;
    close(client->socket);
    free(client);
}

static void take_input(struct client *client) {
    size_t begin = 0, at, length;
    ssize_t got = recv(client->socket, client->input + client->kept, INPUT_MAX - client->kept, 0);
    if (got <= 0) {
        drop(client);
        return;
    }
    client->kept += (size_t)got;
    while (begin < client->kept) {
        at = begin + 1;
        length = read_length(client->input, client->kept, &at);
        if (length > client->kept - at)
            break;
        take_packet(client, client->input[begin], client->input + at, length);
        begin = at + length;
    }
    client->kept -= begin;
    memmove(client->input, client->input + begin, client->kept);
    flush(client->socket, &client->answers);
    if (subscriber != NULL)
        flush(subscriber->socket, &passed);
    passed.length = 0;
}

static int listen_at(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int server = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(server, (struct sockaddr *)&address, sizeof address) != 0 || listen(server, 16) != 0)
        fail(strerror(errno));
    return server;
}

static void accept_client(int poll, int server) {
    struct client *client = calloc(1, sizeof *client);
    int yes = 1;
    if (client == NULL || (client->socket = accept(server, NULL, NULL)) < 0)
        fail("cannot accept");
    setsockopt(client->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    epoll_ctl(poll, EPOLL_CTL_ADD, client->socket,
              &(struct epoll_event){.events = EPOLLIN, .data.ptr = client});
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS_MAX];
    if (argc != 2) {
        fputs("usage: trackbus-sink PORT\n", stderr);
        return 2;
    }
    int server = listen_at(argv[1]), poll = epoll_create1(0);
    epoll_ctl(poll, EPOLL_CTL_ADD, server, &(struct epoll_event){.events = EPOLLIN});
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL)
                accept_client(poll, server);
            else
                take_input(events[i].data.ptr);
        }
    }
}
