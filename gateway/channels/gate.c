// The gate; see gate.h.
#include "gateway/channels/gate.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"

// A turn of the loop: nothing else is done meanwhile, and all the others wait. How long a report, or an end, takes
// differs much from device to device and from machine to machine, so beside what is counted there is the time.
#define TURN_BYTES        32768 // that are read from connections in a turn
#define READING_TIME      8000000 // nanoseconds of a turn, after which nothing more is read from connections in it
#define DATAGRAM_TIME     4000000 // the same for datagrams
#define DUE_TIME          4000000 // the same for what is due in it
#define ACCEPTED_AT_ONCE  64      // connections in a turn
#define RESUMED_AT_ONCE   4       // connections of a channel
#define KEPT_SHARE        4       // of the places at most one of so many is kept for devices of the registry
#define OTHER_DESCRIPTORS 128     // that the gateway may need beside those of connections

struct gate_address {
    unsigned char ip[16];
    int count;
    UT_hash_handle hh;
};

struct gate {
    gate_resume_fn *resume;
    void *context;
    uv_prepare_t turn;    // begins a turn of the loop
    size_t turn_left;     // bytes that may still be read in this turn
    int accepted;         // connections in this turn
    uint64_t reads_since; // when this turn began to read, by uv_hrtime(); 0: it has not
    uint64_t takes_since; // the same for datagrams
    uint64_t does_since;  // and for what is due
    uv_idle_t resumer;    // runs while connections that were held are let go
    bool holding;         // connections are not read: the outbox is busy or full
    bool crowded;         // those of strangers are not
    bool closed;          // nothing is read from devices: the outbox is full
    uint64_t turned_away; // datagrams, while closed
    int connections, connections_max;
    struct gate_address *addresses;
    struct gate_guest *nameless; // the longest first
    int strangers;
};

// --- reading ---

static void on_turn(uv_prepare_t *turn) {
    struct gate *gate = turn->data;
    gate->turn_left = TURN_BYTES;
    gate->accepted = 0;
    gate->reads_since = gate->takes_since = gate->does_since = 0;
}

// The first one of a turn always has time.
static bool has_time(uint64_t *since, uint64_t most) {
    uint64_t now = uv_hrtime();
    if (*since == 0)
        *since = now;
    return now - *since < most;
}

bool gate_reads(struct gate *gate) {
    return !gate->holding && gate->turn_left > 0 && has_time(&gate->reads_since, READING_TIME);
}

bool gate_takes_more(struct gate *gate) {
    return has_time(&gate->takes_since, DATAGRAM_TIME);
}

bool gate_does_more(struct gate *gate) {
    return has_time(&gate->does_since, DUE_TIME);
}

bool gate_accepts(struct gate *gate) {
    return gate->accepted++ < ACCEPTED_AT_ONCE;
}

bool gate_holds(const struct gate *gate) {
    return gate->holding;
}

bool gate_lets_strangers(const struct gate *gate) {
    return !gate->crowded;
}

void gate_has_read(struct gate *gate, size_t bytes) {
    gate->turn_left -= bytes < gate->turn_left ? bytes : gate->turn_left;
}

// A few in each turn of the loop: what they say may be as much as is taken now, and thousands would only be
// held again.
static void on_resume(uv_idle_t *resumer) {
    struct gate *gate = resumer->data;
    if (gate->resume(gate->context, RESUMED_AT_ONCE) == 0)
        uv_idle_stop(resumer);
}

void gate_resume_soon(struct gate *gate) {
    if (!gate->holding && !uv_is_closing((uv_handle_t *)&gate->resumer))
        uv_idle_start(&gate->resumer, on_resume);
}

// A full outbox takes nothing from devices: they keep what they have to say. A busy one takes only datagrams,
// which nobody keeps.
bool gate_set_intake(struct gate *gate, enum outbox_intake intake) {
    bool full = intake == OUTBOX_FULL, changed = full != gate->closed;
    gate->closed = full;
    gate->holding = intake >= OUTBOX_BUSY;
    gate->crowded = intake >= OUTBOX_CROWDED;
    if (changed && !full)
        log_warning("reading from devices again; %llu datagrams were dropped",
                    (unsigned long long)gate->turned_away);
    if (changed)
        gate->turned_away = 0;
    if (gate->holding)
        uv_idle_stop(&gate->resumer);
    else
        gate_resume_soon(gate);
    return changed;
}

bool gate_is_closed(const struct gate *gate) {
    return gate->closed;
}

void gate_turn_away(struct gate *gate) {
    gate->turned_away++;
}

// --- connections ---

// Shells and service managers often allow 1024 descriptors at first and far more on request. Where there are
// fewer, connections are refused before there are none left: libuv would close them silently.
static void allow_descriptors(struct gate *gate, int connections) {
    rlim_t wanted = (rlim_t)connections + OTHER_DESCRIPTORS;
    struct rlimit limit;
    gate->connections_max = connections;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur == wanted)
        return;
    rlim_t others = limit.rlim_cur / 2 < OTHER_DESCRIPTORS ? limit.rlim_cur / 2 : OTHER_DESCRIPTORS;
    gate->connections_max = (int)(limit.rlim_cur - others);
    log_warning("limits.connections is %d, but the system allows only %llu open files: %d connections",
                connections, (unsigned long long)limit.rlim_cur, gate->connections_max);
}

// Linux doubles the table of descriptors when one comes that it has no place for. In a process with threads that takes
// 10 ms and more, in which the loop would stand still. It never shrinks.
static void make_room_for_descriptors(const struct gate *gate) {
    int last = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, gate->connections_max + OTHER_DESCRIPTORS - 1);
    if (last < 0) // the system allows fewer others
        last = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, gate->connections_max);
    if (last >= 0)
        close(last);
}

void gate_allow_connections(struct gate *gate, int connections) {
    allow_descriptors(gate, connections);
    make_room_for_descriptors(gate);
}

struct gate_address *gate_enter(struct gate *gate, const unsigned char ip[16]) {
    struct gate_address *address;
    HASH_FIND(hh, gate->addresses, ip, sizeof address->ip, address);
    if (address == NULL) {
        address = must_have(calloc(1, sizeof *address));
        memcpy(address->ip, ip, sizeof address->ip);
        HASH_ADD(hh, gate->addresses, ip, sizeof address->ip, address);
    }
    address->count++;
    gate->connections++;
    return address;
}

void gate_leave(struct gate *gate, struct gate_address *address) {
    gate->connections--;
    if (--address->count > 0)
        return;
    HASH_DEL(gate->addresses, address);
    free(address);
}

static int kept_places(const struct gate *gate, size_t listed_count) {
    int share = gate->connections_max / KEPT_SHARE;
    return listed_count < (size_t)share ? (int)listed_count : share;
}

void gate_guest_comes(struct gate *gate, struct gate_guest *guest) {
    guest->nameless = true;
    DL_APPEND(gate->nameless, guest);
}

static void leave_nameless(struct gate *gate, struct gate_guest *guest) {
    if (guest->nameless)
        DL_DELETE(gate->nameless, guest);
    guest->nameless = false;
}

void gate_guest_goes(struct gate *gate, struct gate_guest *guest) {
    leave_nameless(gate, guest);
    gate->strangers -= guest->stranger;
    guest->stranger = false;
}

bool gate_guest_is_named(struct gate *gate, struct gate_guest *guest, bool listed, size_t listed_count) {
    leave_nameless(gate, guest);
    if (listed)
        return true;
    guest->stranger = true;
    gate->strangers++;
    return gate->strangers <= gate->connections_max - kept_places(gate, listed_count);
}

struct gate_guest *gate_longest_nameless(const struct gate *gate, size_t listed_count) {
    return kept_places(gate, listed_count) > 0 ? gate->nameless : NULL;
}

int gate_connections_max(const struct gate *gate) {
    return gate->connections_max;
}

bool gate_is_crowded(const struct gate *gate) {
    return gate->connections > gate->connections_max;
}

int gate_count_from(const struct gate_address *address) {
    return address->count;
}

// --- beginning, ending ---

struct gate *gate_new(uv_loop_t *loop, gate_resume_fn *resume, void *context) {
    struct gate *gate = must_have(calloc(1, sizeof *gate));
    gate->resume = resume;
    gate->context = context;
    uv_idle_init(loop, &gate->resumer);
    uv_prepare_init(loop, &gate->turn);
    gate->resumer.data = gate->turn.data = gate;
    uv_prepare_start(&gate->turn, on_turn);
    uv_unref((uv_handle_t *)&gate->turn);
    return gate;
}

void gate_stop(struct gate *gate) {
    uv_close((uv_handle_t *)&gate->resumer, NULL);
    uv_close((uv_handle_t *)&gate->turn, NULL);
}

void gate_free(struct gate *gate) {
    free(gate);
}
