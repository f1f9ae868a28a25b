// The gate: whether devices are read now, and how many may be connected.
//
// The broker and all other devices wait while one is served, so what is done in one turn of the loop is bounded. While the outbox
// is busy, connections are not read (back-pressure: they are "held"); while it is crowded, those of strangers are not;
// while it is full, datagrams are turned away as well. Held connections are let go a few at a time, so that they do not all come at once.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/outbox.h"

struct gate;

// Lets up to count held connections of each channel go on, the longest held first. Returns how many there
// were.
typedef size_t gate_resume_fn(void *context, size_t count);

struct gate *gate_new(uv_loop_t *loop, gate_resume_fn *resume, void *context);
// Closes the handles on the loop. The memory goes with gate_free() after the loop has ended.
void gate_stop(struct gate *gate);
void gate_free(struct gate *gate);

// --- reading ---

// What the outbox takes in from now on. True when it became full, or is no longer full.
bool gate_set_intake(struct gate *gate, enum outbox_intake intake);

// Whether connections may be read now; and whether those of devices outside the registry may then, where it has any. When
// not, they are held, and gate_resume_soon() lets them go later.
bool gate_reads(struct gate *gate);
bool gate_holds(const struct gate *gate); // none may, however much time there is
bool gate_lets_strangers(const struct gate *gate);
void gate_resume_soon(struct gate *gate);

// That many bytes were read from a connection in this turn of the loop.
void gate_has_read(struct gate *gate, size_t bytes);

// Whether more datagrams are taken in this turn of the loop. Connections have a time of their own: nobody keeps a datagram
// that is not taken soon.
bool gate_takes_more(struct gate *gate);

// Whether more of what is due (a silence, the end of a connection) is done in this turn of the loop; if not, the caller
// tries again a millisecond later. Thousands may be due at once.
bool gate_does_more(struct gate *gate);

// Whether one more connection is accepted in this turn of the loop, and counts it.
bool gate_accepts(struct gate *gate);

// Whether datagrams are turned away, because the outbox is full; and that one was.
bool gate_is_closed(const struct gate *gate);
void gate_turn_away(struct gate *gate);

// --- connections ---

// Allows limits.connections, or fewer where the system does not allow so many open files, which is logged.
void gate_allow_connections(struct gate *gate, int wanted);

struct gate_address; // connections from one IP address

// Counts a connection from an address (as in struct address_key) in, whether it may stay or not; gate_leave()
// counts it out.
struct gate_address *gate_enter(struct gate *gate, const unsigned char ip[16]);
void gate_leave(struct gate *gate, struct gate_address *address);

// A connection as the gate sees it; owner is whoever made it.
struct gate_guest {
    void *owner;
    bool nameless; // has not said who it is
    bool stranger; // has, and is not in the registry
    struct gate_guest *prev, *next;
};

// Strangers must not keep the devices of the registry out. So places are kept for those: as many as there are devices,
// and a quarter of all at most. Strangers who have said who they are take none of them; and when all are taken, the
// nameless one that is here longest makes way for one that comes.
//
// The guest comes; goes; and has said who it is. The last one is false when no place is left for such a stranger.
void gate_guest_comes(struct gate *gate, struct gate_guest *guest);
void gate_guest_goes(struct gate *gate, struct gate_guest *guest);
bool gate_guest_is_named(struct gate *gate, struct gate_guest *guest, bool listed, size_t listed_count);
// The nameless one that is here longest; NULL when none is, or no place is kept.
struct gate_guest *gate_longest_nameless(const struct gate *gate, size_t listed_count);

int gate_connections_max(const struct gate *gate);
bool gate_is_crowded(const struct gate *gate); // more are in than that
int gate_count_from(const struct gate_address *address);
