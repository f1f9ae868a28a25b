// The world; see world.h.
#include "tests/faults/world.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/faults/world_parts.h"

#define TURN_TIME   10    // milliseconds at most
#define SETTLE_TIME 20000 // milliseconds

#define MEMORY_PARTS 10

// --- the thread ---

void world_poll(struct world *world, int descriptor, short events) {
    cr_assert(world->poll_count < POLLS_MAX);
    world->polls[world->poll_count++] = (struct pollfd){.fd = descriptor, .events = events};
}

bool world_is_ready(const struct world *world, int descriptor, short events) {
    for (size_t i = 0; i < world->poll_count; i++)
        if (world->polls[i].fd == descriptor)
            return (world->polls[i].revents & events) != 0;
    return false;
}

// Lets the devices send more, one after the other, at the given rate.
static void give_reports(struct world *world) {
    int64_t now = rig_clock(), due = (now - world->sent_until) * world->setup.rate / 1000;
    if (!world->sending || world->device_count == 0) {
        world->sent_until = now;
        return;
    }
    if (due == 0)
        return;
    world->sent_until = now;
    for (int64_t i = 0; i < due; i++) {
        struct device *device = world->devices[world->turn++ % world->device_count];
        // A device that cannot keep up does not pile up reports.
        device->last +=
            !device->forbidden && device->last < device->next + 200 && device->last < SEQUENCE_MAX;
    }
}

// The second number in /proc/PID/statm is the resident pages.
static void sample_memory(struct world *world) {
    char path[64];
    size_t pages = 0;
    int64_t seconds = (rig_clock() - world->started) / 1000;
    if (seconds < (int64_t)world->memory_count || world->memory_count == MEMORY_MAX)
        return;
    snprintf(path, sizeof path, "/proc/%d/statm", world->rig->gateway);
    FILE *file = fopen(path, "r");
    if (file == NULL || fscanf(file, "%*u %zu", &pages) != 1)
        pages = 0;
    if (file != NULL)
        fclose(file);
    world->memory[world->memory_count++] = pages * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

static void turn(struct world *world) {
    world->poll_count = 0;
    proxy_poll(world);
    for (int i = 0; i < world->device_count; i++)
        device_poll(world, world->devices[i]);
    pthread_mutex_unlock(&world->lock);
    poll(world->polls, world->poll_count, TURN_TIME);
    usleep(200); // lets others have the lock
    pthread_mutex_lock(&world->lock);
    give_reports(world);
    for (int i = 0; i < world->device_count; i++)
        device_turn(world, world->devices[i]);
    proxy_turn(world);
    sample_memory(world);
}

static void *run(void *context) {
    struct world *world = context;
    pthread_mutex_lock(&world->lock);
    while (!world->ending)
        turn(world);
    pthread_mutex_unlock(&world->lock);
    return NULL;
}

// --- making it ---

static void add_devices(struct world *world, enum device_kind kind, int count) {
    for (int i = 0; i < count; i++) {
        struct device *device = calloc(1, sizeof *device);
        device->kind = kind;
        device->index = world->device_count;
        device->socket = -1;
        device->next = 1;
        world->devices[world->device_count++] = device;
    }
}

struct world *world_new(struct rig *rig, struct world_setup setup) {
    struct world *world = calloc(1, sizeof *world);
    world->rig = rig;
    world->setup = setup;
    world->started = rig_clock();
    alarm((unsigned)world_seconds(0) * 3 + 180); // in place of the rig's
    signal(SIGPIPE, SIG_IGN);
    int *ports[] = {&world->proxy_port, &world->tcp_port, &world->udp_port, &world->magicyo_port,
                    &world->magicyo_udp_port};
    for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++)
        *ports[i] = rig_free_port();
    add_devices(world, MICTRACK, setup.forbidden);
    for (int i = 0; i < setup.forbidden; i++)
        world->devices[i]->forbidden = true;
    add_devices(world, MICTRACK, setup.mictrack);
    add_devices(world, MAGICYO, setup.magicyo);
    add_devices(world, UDP, setup.udp);
    add_devices(world, MAGICYO_UDP, setup.magicyo_udp);
    proxy_open(world);
    pthread_mutex_init(&world->lock, NULL);
    pthread_create(&world->thread, NULL, run, world);
    return world;
}

void world_free(struct world *world) {
    world->ending = true;
    pthread_join(world->thread, NULL);
    proxy_close(world);
    for (int i = 0; i < world->device_count; i++) {
        device_close(world->devices[i]);
        free(world->devices[i]);
    }
    free(world);
}

const char *world_config(struct world *world, const char *more) {
    static char text[2048];
    snprintf(text, sizeof text,
             "{'channels':[{'id':1,'name':'mictrack','protocol':'mictrack','tcp':'127.0.0.1:%d',"
             "'udp':'127.0.0.1:%d','udp_ack':'ACK,{ident},{type},{seq}#'},"
             "{'id':2,'name':'magicyo','protocol':'magicyo','tcp':'127.0.0.1:%d','udp':'127.0.0.1:%d'}],"
             "'mqtt':{'url':'mqtt://127.0.0.1:%d'},'messages':['devices']%s%s}",
             world->tcp_port, world->udp_port, world->magicyo_port, world->magicyo_udp_port,
             world->proxy_port, more != NULL ? "," : "", more != NULL ? more : "");
    return text;
}

struct world_faults *world_faults(struct world *world) {
    return &world->faults;
}

void world_send(struct world *world, bool send) {
    world->sending = send;
}

void world_rate(struct world *world, int rate) {
    pthread_mutex_lock(&world->lock);
    world->setup.rate = rate;
    pthread_mutex_unlock(&world->lock);
}

int world_seconds(int without) {
    const char *text = getenv("TRACKBUS_FAULTS_SECONDS");
    return text != NULL ? atoi(text) : without;
}

bool world_is_over(struct world *world, int seconds) {
    return rig_clock() - world->started > (int64_t)seconds * 1000;
}

// --- the gateway ---

static void note_memory(struct world *world) {
    char path[64], line[128];
    size_t peak = 0;
    snprintf(path, sizeof path, "/proc/%d/status", world->rig->gateway);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "VmHWM: %zu", &peak);
    if (file != NULL)
        fclose(file);
    pthread_mutex_lock(&world->lock);
    if (peak > world->counts.peak_memory)
        world->counts.peak_memory = peak;
    pthread_mutex_unlock(&world->lock);
}

void world_start_gateway(struct world *world, const char *more) {
    rig_gateway_start(world->rig, world_config(world, more));
}

void world_kill_gateway(struct world *world) {
    note_memory(world);
    cr_assert(!rig_log_has(world->rig, "runtime error: "), "undefined behaviour");
    pthread_mutex_lock(&world->lock);
    world->killed = true;
    pthread_mutex_unlock(&world->lock);
    rig_gateway_signal(world->rig, SIGKILL);
    cr_assert(rig_gateway_wait(world->rig) == -SIGKILL, "the gateway had ended already");
}

void world_stop_gateway(struct world *world) {
    note_memory(world);
    rig_gateway_stop(world->rig);
}

// Whether the system holds bytes of a connection to one of the ports: "sl local remote state tx:rx" with
// ports in hexadecimal digits.
bool world_has_unread(struct world *world) {
    char line[256];
    unsigned local, tx, rx, state;
    bool found = false;
    FILE *file = fopen("/proc/net/tcp", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, " %*d: %*x:%x %*x:%*x %x %x:%x", &local, &state, &tx, &rx) != 4 || state == 0x0A)
            continue;
        bool ours = (int)local == world->tcp_port || (int)local == world->magicyo_port;
        found = found || (ours && rx > 0);
    }
    fclose(file);
    return found;
}

// The system has received what the device sent, and the gateway has read it.
static bool is_read(void *context) {
    struct world *world = context;
    bool read = true;
    pthread_mutex_lock(&world->lock);
    for (int i = 0; i < world->device_count && read; i++)
        read = device_is_read(world->devices[i]);
    pthread_mutex_unlock(&world->lock);
    return read && !world_has_unread(world);
}

void world_pause(struct world *world) {
    world_send(world, false);
    cr_assert(rig_wait(is_read, world, SETTLE_TIME), "the gateway does not read what was sent");
}

// --- counting ---

static void count_lost(struct world *world) {
    world->counts.lost = 0;
    for (int i = 0; i < world->device_count; i++) {
        const struct device *device = world->devices[i];
        int promised = device->kind == MICTRACK ? SENT : ACKNOWLEDGED;
        bool may_lose = device->kind == MICTRACK && world->killed;
        for (int s = 1; s <= device->last && !may_lose; s++)
            world->counts.lost +=
                (device->flags[s] & promised) != 0 && (device->flags[s] & (RECEIVED | UNWELCOME)) == 0;
    }
}

struct world_counts world_counts(struct world *world) {
    pthread_mutex_lock(&world->lock);
    count_lost(world);
    struct world_counts counts = world->counts;
    pthread_mutex_unlock(&world->lock);
    return counts;
}

struct growth {
    struct world *world;
    size_t offset, wanted;
};

static size_t field_of(struct world *world, size_t offset) {
    struct world_counts counts = world_counts(world);
    size_t value;
    memcpy(&value, (const char *)&counts + offset, sizeof value);
    return value;
}

static bool has_grown(void *context) {
    const struct growth *growth = context;
    return field_of(growth->world, growth->offset) >= growth->wanted;
}

static int patience(const struct world *world) {
    return world->setup.patience != 0 ? world->setup.patience : SETTLE_TIME;
}

static int compare_sizes(const void *a, const void *b) {
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    return (left > right) - (left < right);
}

// The resident memory of the gateway in ten parts of the time: the median of each.
static void write_memory(struct world *world, char *text) {
    size_t parts = world->memory_count < MEMORY_PARTS ? world->memory_count : MEMORY_PARTS;
    text[0] = '\0';
    for (size_t i = 0; i < parts; i++) {
        size_t first = world->memory_count * i / parts, end = world->memory_count * (i + 1) / parts;
        qsort(world->memory + first, end - first, sizeof world->memory[0], compare_sizes);
        sprintf(text + strlen(text), " %zu", world->memory[first + (end - first) / 2]);
    }
}

static void print_counts(struct world *world, const char *name) {
    struct world_counts counts = world_counts(world);
    char memory[MEMORY_PARTS * 22];
    pthread_mutex_lock(&world->lock);
    write_memory(world, memory);
    pthread_mutex_unlock(&world->lock);
    fprintf(stderr,
            "%-28s sent %zu, acknowledged %zu, received %zu, lost %zu, duplicates %zu, repeated by devices "
            "over UDP %zu, out of order %zu, "
            "connections to the broker %zu, peak memory %zu KiB, over time%s KiB\n",
            name, counts.sent, counts.acknowledged, counts.received, counts.lost, counts.duplicates,
            counts.udp_repeats, counts.out_of_order, counts.connections, counts.peak_memory, memory);
}

void world_expect_growth(struct world *world, size_t offset, size_t by, const char *what) {
    struct growth growth = {world, offset, field_of(world, offset) + by};
    bool grown = rig_wait(has_grown, &growth, patience(world));
    if (!grown)
        print_counts(world, "stuck");
    cr_assert(grown, "%s does not become %zu", what, growth.wanted);
}

static bool device_is_settled(const struct world *world, const struct device *device) {
    if (device->kind != MICTRACK)
        return device->answered == device->last;
    return device->next > device->last;
}

static bool is_settled(void *context) {
    struct world *world = context;
    bool settled = true;
    pthread_mutex_lock(&world->lock);
    count_lost(world);
    for (int i = 0; i < world->device_count; i++)
        settled = settled && device_is_settled(world, world->devices[i]);
    settled = settled && world->counts.lost == 0;
    pthread_mutex_unlock(&world->lock);
    return settled;
}

void world_drain(struct world *world) {
    world_send(world, false);
    bool settled = rig_wait(is_settled, world, patience(world));
    if (!settled)
        print_counts(world, "not drained");
    cr_assert(settled, "what waits does not go out");
    world_send(world, true);
}

void world_settle(struct world *world, const char *name) {
    world_send(world, false);
    bool settled = rig_wait(is_settled, world, patience(world));
    rig_expect_counters(world->rig, "outbox: 0 messages");
    note_memory(world);
    print_counts(world, name);
    struct world_counts counts = world_counts(world);
    cr_assert(counts.lost == 0, "%zu reports are lost", counts.lost);
    cr_assert(counts.out_of_order == 0, "%zu reports are out of order", counts.out_of_order);
    bool may_repeat = world->killed || counts.connections > 1;
    cr_assert(may_repeat || counts.own_duplicates == 0, "%zu reports are repeated", counts.own_duplicates);
    cr_assert(settled, "devices still wait for acknowledgements");
}

void world_finish(struct world *world, const char *name) {
    struct rig *rig = world->rig;
    world_settle(world, name);
    world_stop_gateway(world);
    world_free(world);
    rig->finished = true;
}
