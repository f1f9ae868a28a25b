// The subscriber of the benchmarks; see subscriber.h.
#include "tests/bench/subscriber.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/reports.h"

#define FLIGHTS     (1U << 21) // reports under way that are remembered, of all devices
#define FLIGHTS_MAX 4096       // and of one
#define INPUT_MAX   (1U << 18)
#define RELAXATION  1000 // microseconds
#define FILTER      "trackbus/message/gw/+/+/+"
#define FILTER_MAX  120
#define SEQNUM      "\"message.seqnum\":"

enum { CONNACK = 2, PUBLISH = 3, SUBACK = 9 };

struct subscriber {
    int socket;
    pthread_t thread;
    bool relaxed, counts_only;
    unsigned devices, flights_each; // a power of two
    _Atomic uint64_t *flights; // when a report was written, with its sequence number in the upper 16 bits
    atomic_uint_fast64_t received;
    atomic_bool measuring, ended;
    struct subscriber_totals totals;
    uint8_t acknowledgements[INPUT_MAX];
    size_t acknowledged;
};

#define TIME_MASK ((UINT64_C(1) << 48) - 1)

uint64_t bench_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "the subscriber: %s\n", what);
    exit(1);
}

// --- reports under way ---

static _Atomic uint64_t *flight_of(const struct subscriber *subscriber, unsigned device, unsigned sequence) {
    unsigned place = sequence & (subscriber->flights_each - 1);
    return &subscriber->flights[(size_t)device * subscriber->flights_each + place];
}

void subscriber_expect(struct subscriber *subscriber, unsigned device, unsigned sequence, uint64_t when) {
    atomic_store_explicit(flight_of(subscriber, device, sequence),
                          (uint64_t)sequence << 48 | (when & TIME_MASK), memory_order_relaxed);
}

// So many digits, or fewer when something else comes before.
static unsigned read_digits(const char *text, size_t digits) {
    unsigned number = 0;
    for (size_t i = 0; i < digits && text[i] >= '0' && text[i] <= '9'; i++)
        number = number * 10 + (unsigned)(text[i] - '0');
    return number;
}

static void note_arrival(struct subscriber *subscriber, unsigned device, unsigned sequence, uint64_t now) {
    uint64_t flight = 0;
    if (device < subscriber->devices)
        flight = atomic_load_explicit(flight_of(subscriber, device, sequence), memory_order_relaxed);
    if (flight >> 48 != sequence)
        subscriber->totals.unmatched++;
    else if (atomic_load_explicit(&subscriber->measuring, memory_order_relaxed))
        histogram_note(&subscriber->totals.latency, (now - flight) & TIME_MASK);
}

// --- MQTT ---

// Which report the message is of.
static void take_report(struct subscriber *subscriber, const char *topic_end, const char *text, size_t length,
                        uint64_t now) {
    const char *number = memmem(text, length, SEQNUM, strlen(SEQNUM));
    if (number == NULL || (size_t)(text + length - number) < strlen(SEQNUM) + 5)
        fail("a message without a number");
    unsigned device = read_digits(topic_end - 8, 8); // the ident's last digits
    note_arrival(subscriber, device, read_digits(number + strlen(SEQNUM), 5), now);
}

static void take_publish(struct subscriber *subscriber, const uint8_t *packet, size_t length, unsigned qos,
                         uint64_t now) {
    size_t topic = (size_t)packet[0] << 8 | packet[1], payload = topic + 2 + (qos > 0 ? 2 : 0);
    const char *text = (const char *)packet + payload;
    if (payload > length || (topic < REPORT_DIGITS && !subscriber->counts_only))
        fail("a message that is none of the benchmark's");
    if (qos > 0) {
        memcpy(subscriber->acknowledgements + subscriber->acknowledged,
               (uint8_t[]){0x40, 2, packet[topic + 2], packet[topic + 3]}, 4);
        subscriber->acknowledged += 4;
    }
    if (!subscriber->counts_only)
        take_report(subscriber, (const char *)packet + 2 + topic, text, length - payload, now);
    subscriber->totals.received++;
    subscriber->totals.bytes += length - payload;
}

// The length of the first packet, and *head that of its header; 0 when it is incomplete.
static size_t packet_length(const uint8_t *bytes, size_t length, size_t *head) {
    size_t rest = 0;
    for (*head = 1; *head < length && *head < 5; ++*head) {
        rest |= (size_t)(bytes[*head] & 0x7F) << 7 * (*head - 1);
        if ((bytes[*head] & 0x80) == 0) {
            ++*head;
            return *head + rest <= length ? *head + rest : 0;
        }
    }
    return 0;
}

static void write_all(struct subscriber *subscriber, const void *bytes, size_t length) {
    if (length > 0 && send(subscriber->socket, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        atomic_store(&subscriber->ended, true);
}

static size_t take_packets(struct subscriber *subscriber, const uint8_t *bytes, size_t length) {
    uint64_t now = bench_clock();
    size_t at = 0, head, whole;
    while ((whole = packet_length(bytes + at, length - at, &head)) > 0) {
        if (bytes[at] >> 4 == PUBLISH)
            take_publish(subscriber, bytes + at + head, whole - head, bytes[at] >> 1 & 3, now);
        at += whole;
    }
    write_all(subscriber, subscriber->acknowledgements, subscriber->acknowledged);
    subscriber->acknowledged = 0;
    atomic_store_explicit(&subscriber->received, subscriber->totals.received, memory_order_relaxed);
    return at;
}

static void *receive(void *context) {
    static uint8_t input[INPUT_MAX];
    struct subscriber *subscriber = context;
    struct timespec cpu;
    size_t kept = 0;
    ssize_t got;
    while ((got = recv(subscriber->socket, input + kept, sizeof input - kept, 0)) > 0) {
        kept += (size_t)got;
        size_t used = take_packets(subscriber, input, kept);
        memmove(input, input + used, kept - used);
        kept -= used;
        if (subscriber->relaxed && got < (ssize_t)sizeof input / 4)
            usleep(RELAXATION);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    subscriber->totals.cpu = (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9;
    atomic_store(&subscriber->ended, true);
    return NULL;
}

static void expect_packet(struct subscriber *subscriber, unsigned type, size_t length) {
    uint8_t packet[8];
    if (recv(subscriber->socket, packet, length, MSG_WAITALL) != (ssize_t)length || packet[0] >> 4 != type ||
        packet[length - 1] >= 0x80)
        fail("the broker does not take the subscription");
}

static void subscribe(struct subscriber *subscriber, const char *filter, int qos) {
    static const uint8_t connect[] = "\x10\x17\0\4MQTT\4\2\0\0\0\13trackbus-su";
    size_t length = strlen(filter);
    if (length > FILTER_MAX)
        fail("too long a topic");
    uint8_t packet[FILTER_MAX + 7] = {0x82, (uint8_t)(length + 5), 0, 1, 0, (uint8_t)length};
    memcpy(packet + 6, filter, length);
    packet[6 + length] = (uint8_t)qos;
    write_all(subscriber, connect, sizeof connect - 1);
    expect_packet(subscriber, CONNACK, 4);
    write_all(subscriber, packet, packet[1] + 2U);
    expect_packet(subscriber, SUBACK, 5);
}

// --- what others call ---

static void make_flights(struct subscriber *subscriber, unsigned devices) {
    subscriber->devices = devices;
    for (subscriber->flights_each = 16;
         subscriber->flights_each < FLIGHTS_MAX && (size_t)subscriber->flights_each * devices * 2 <= FLIGHTS;)
        subscriber->flights_each *= 2;
    subscriber->flights = calloc((size_t)devices * subscriber->flights_each, sizeof *subscriber->flights);
    if (subscriber->flights == NULL)
        fail("out of memory");
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
        connect(handle, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to the broker");
    return handle;
}

struct subscriber *subscriber_start(const char *host, int port, const char *topic, int qos, unsigned devices,
                                    bool relaxed) {
    struct subscriber *subscriber = calloc(1, sizeof *subscriber);
    if (subscriber == NULL)
        fail("out of memory");
    subscriber->relaxed = relaxed;
    subscriber->counts_only = topic != NULL;
    make_flights(subscriber, devices);
    subscriber->socket = connect_to(host, port);
    subscribe(subscriber, topic != NULL ? topic : FILTER, qos);
    if (pthread_create(&subscriber->thread, NULL, receive, subscriber) != 0)
        fail("no thread");
    return subscriber;
}

uint64_t subscriber_received(const struct subscriber *subscriber) {
    return atomic_load_explicit(&subscriber->received, memory_order_relaxed);
}

bool subscriber_has_ended(const struct subscriber *subscriber) {
    return atomic_load(&subscriber->ended);
}

void subscriber_measure(struct subscriber *subscriber, bool measure) {
    atomic_store(&subscriber->measuring, measure);
}

const struct subscriber_totals *subscriber_stop(struct subscriber *subscriber) {
    shutdown(subscriber->socket, SHUT_RDWR);
    pthread_join(subscriber->thread, NULL);
    close(subscriber->socket);
    return &subscriber->totals;
}
