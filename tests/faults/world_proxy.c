// The proxy between the gateway and the broker; see world.h.
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/faults/world_parts.h"

#define PIPE_MAX     (1U << 20)
#define TYPE_PUBACK  4
#define TYPE_PUBLISH 3

static struct sockaddr_in loopback(int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

void proxy_open(struct world *world) {
    int on = 1;
    struct sockaddr_in address = loopback(world->proxy_port);
    world->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(world->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    cr_assert(bind(world->listener, (struct sockaddr *)&address, sizeof address) == 0);
    listen(world->listener, 16);
}

static void close_pair(struct pair *pair) {
    close(pair->up.from);
    close(pair->up.to);
    free(pair->up.bytes);
    free(pair->down.bytes);
    pair->up = pair->down = (struct pipe){.from = -1, .to = -1};
    pair->open = false;
}

void proxy_close(struct world *world) {
    for (int i = 0; i < PAIRS_MAX; i++) {
        if (world->pairs[i] != NULL && world->pairs[i]->open)
            close_pair(world->pairs[i]);
        free(world->pairs[i]);
    }
    close(world->listener);
}

static void accept_one(struct world *world, int gateway) {
    struct sockaddr_in address = loopback(world->rig->broker_port);
    int broker = socket(AF_INET, SOCK_STREAM, 0), i = 0;
    while (i < PAIRS_MAX && world->pairs[i] != NULL && world->pairs[i]->open)
        i++;
    if (i == PAIRS_MAX || connect(broker, (struct sockaddr *)&address, sizeof address) != 0) {
        close(broker);
        close(gateway);
        return;
    }
    fcntl(broker, F_SETFL, O_NONBLOCK);
    fcntl(gateway, F_SETFL, O_NONBLOCK);
    free(world->pairs[i]);
    struct pair *pair = world->pairs[i] = calloc(1, sizeof *pair);
    pair->open = true;
    pair->up = (struct pipe){.from = gateway, .to = broker};
    pair->down = (struct pipe){.from = broker, .to = gateway};
    world->counts.connections++;
    for (int d = 0; d < world->device_count; d++)
        world->devices[d]->last_passed = 0;
}

// --- packets ---

// Length of the packet that bytes begin with, and of its head; false when it is not whole.
static bool find_packet(const uint8_t *bytes, size_t length, size_t *head, size_t *whole) {
    size_t rest = 0, at = 1;
    for (unsigned shift = 0; shift < 28; shift += 7) {
        if (at >= length)
            return false;
        rest |= (size_t)(bytes[at] & 0x7F) << shift;
        if ((bytes[at++] & 0x80) == 0)
            break;
    }
    *head = at;
    *whole = at + rest;
    return *whole <= length;
}

// What is to come next at the latest: what the broker must not take may be set aside without having been sent.
static int next_due(const struct device *device) {
    int next = device->highest + 1;
    while (next < SEQUENCE_MAX && (device->flags[next] & UNWELCOME) != 0)
        next++;
    return next;
}

static void note_order(struct world *world, struct device *device, int sequence) {
    bool may_miss = device->kind == MICTRACK && world->killed;
    if ((device->flags[sequence] & REFUSED) != 0) {
        device->flags[sequence] &= (uint8_t)~REFUSED; // later ones were at the broker together with it
        return;
    }
    if (sequence > next_due(device) && !may_miss)
        world->counts.out_of_order++;
    if (device->kind == MICTRACK && sequence <= device->last_passed)
        world->counts.out_of_order++;
    if (sequence > device->highest)
        device->highest = sequence;
    device->last_passed = sequence;
}

// A report on message/gw/devices/860000000000NNN is noted under its packet id.
static void note_publish(struct world *world, struct pair *pair, const uint8_t *packet, size_t head,
                         size_t whole) {
    size_t topic = (size_t)packet[head] << 8 | packet[head + 1];
    const char *name = (const char *)packet + head + 2;
    const char *payload = memmem(packet + head, whole - head, "\"message.seqnum\":", 17);
    size_t id = (size_t)packet[head + 2 + topic] << 8 | packet[head + 3 + topic];
    pair->by_id[id].device = -1;
    if (payload == NULL || memmem(name, topic, "message/gw/devices/86", 21) == NULL)
        return;
    const char *end = name + topic - 3; // what follows the name may look like digits
    int index = (end[0] - '0') * 100 + (end[1] - '0') * 10 + end[2] - '0', sequence = atoi(payload + 17);
    if (index < 0 || index >= world->device_count || sequence > SEQUENCE_MAX)
        return;
    pair->by_id[id].device = index;
    pair->by_id[id].sequence = sequence;
    note_order(world, world->devices[index], sequence);
}

static void note_puback(struct world *world, struct pair *pair, const uint8_t *packet, size_t head,
                        size_t whole) {
    size_t id = (size_t)packet[head] << 8 | packet[head + 1];
    bool refused = whole - head > 2 && packet[head + 2] >= 0x80;
    int index = pair->by_id[id].device, sequence = pair->by_id[id].sequence;
    if (index < 0 || sequence == 0 || refused)
        return;
    uint8_t *flags = &world->devices[index]->flags[sequence];
    if ((*flags & RECEIVED) == 0) {
        world->counts.received++;
    } else {
        world->counts.duplicates++;
        world->counts.own_duplicates += world->devices[index]->kind == MICTRACK;
    }
    *flags |= RECEIVED;
    pair->by_id[id].sequence = 0;
}

// Puts a reason into a PUBACK, which is longer by a byte when it had none.
static void refuse(struct world *world, struct pair *pair, struct pipe *pipe, size_t head, size_t *whole) {
    const uint8_t *id = pipe->bytes + pipe->ready + head;
    int index = pair->by_id[id[0] << 8 | id[1]].device, sequence = pair->by_id[id[0] << 8 | id[1]].sequence;
    if (world->faults.refused == 0 || index < 0 || sequence == 0 || pair->turn++ % 2 == 0)
        return;
    world->faults.refused--;
    world->devices[index]->flags[sequence] |= REFUSED;
    if (*whole == head + 2) {
        pipe->bytes = realloc(pipe->bytes, ++pipe->capacity);
        uint8_t *rest = pipe->bytes + pipe->ready + (*whole)++;
        memmove(rest + 1, rest, pipe->length++ - pipe->ready - head - 2);
        pipe->bytes[pipe->ready + 1]++;
    }
    pipe->bytes[pipe->ready + head + 2] = (uint8_t)world->faults.refusal;
}

static bool is_for_report(const struct pair *pair, const uint8_t *id) {
    return pair->by_id[id[0] << 8 | id[1]].device >= 0 && pair->by_id[id[0] << 8 | id[1]].sequence > 0;
}

static bool counts_down(atomic_int *count) {
    return *count > 0 && --*count == 0;
}

// Makes whole packets ready to be written. False: the connection is to be cut now.
static bool look_at_packets(struct world *world, struct pair *pair, struct pipe *pipe) {
    size_t head, whole;
    while (find_packet(pipe->bytes + pipe->ready, pipe->length - pipe->ready, &head, &whole)) {
        const uint8_t *packet = pipe->bytes + pipe->ready;
        int type = packet[0] >> 4;
        if (type == TYPE_PUBLISH && pipe == &pair->up) {
            if (counts_down(&world->faults.cut)) {
                pipe->ready += whole / 2;
                return false;
            }
            note_publish(world, pair, packet, head, whole);
        }
        if (type == TYPE_PUBACK && pipe == &pair->down) {
            if (is_for_report(pair, packet + head) && counts_down(&world->faults.cut_answer))
                return false;
            refuse(world, pair, pipe, head, &whole);
            note_puback(world, pair, pipe->bytes + pipe->ready, head, whole);
        }
        pipe->ready += whole;
    }
    return true;
}

// --- bytes ---

static bool read_some(struct pipe *pipe) {
    if (pipe->length > PIPE_MAX)
        return true;
    if (pipe->capacity < pipe->length + 65536) {
        pipe->capacity = pipe->length + 131072;
        pipe->bytes = realloc(pipe->bytes, pipe->capacity);
    }
    ssize_t got = recv(pipe->from, pipe->bytes + pipe->length, 65536, 0);
    if (got > 0)
        pipe->length += (size_t)got;
    return got > 0 || (got < 0 && errno == EAGAIN);
}

static bool write_some(struct pipe *pipe) {
    if (pipe->ready == 0)
        return true;
    ssize_t sent = send(pipe->to, pipe->bytes, pipe->ready, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    memmove(pipe->bytes, pipe->bytes + sent, pipe->length - (size_t)sent);
    pipe->length -= (size_t)sent;
    pipe->ready -= (size_t)sent;
    return true;
}

static bool pass(struct world *world, struct pair *pair, struct pipe *pipe) {
    if (!read_some(pipe))
        return false;
    bool goes_on = look_at_packets(world, pair, pipe);
    return write_some(pipe) && goes_on;
}

static void turn_pair(struct world *world, struct pair *pair) {
    int64_t now = rig_clock();
    if (world->faults.stalled || now < pair->held_until)
        return;
    pair->held_until = now + world->faults.delay;
    // What the broker has said before it died counts.
    bool down = pass(world, pair, &pair->down);
    bool up = pass(world, pair, &pair->up);
    if (!down || !up)
        close_pair(pair);
}

void proxy_poll(struct world *world) {
    world_poll(world, world->listener, POLLIN);
    for (int i = 0; i < PAIRS_MAX; i++) {
        const struct pair *pair = world->pairs[i];
        if (pair == NULL || !pair->open || world->faults.stalled || world->faults.delay > 0)
            continue;
        world_poll(world, pair->up.from, (short)(POLLIN | (pair->down.ready > 0 ? POLLOUT : 0)));
        world_poll(world, pair->up.to, (short)(POLLIN | (pair->up.ready > 0 ? POLLOUT : 0)));
    }
}

void proxy_turn(struct world *world) {
    int gateway = accept(world->listener, NULL, NULL);
    if (gateway >= 0)
        accept_one(world, gateway);
    for (int i = 0; i < PAIRS_MAX; i++)
        if (world->pairs[i] != NULL && world->pairs[i]->open)
            turn_pair(world, world->pairs[i]);
}
