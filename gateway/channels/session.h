// Sessions: from the ident of a device to where it can be reached.
#pragma once

#include <stdint.h>
#include <uthash.h>

#include "gateway/channels/event.h"
#include "gateway/channels/peer.h"

#define PLACES_ALL_MAX 200000 // devices at peers of several, beyond which each peer keeps the one that speaks

// A device at a peer. A peer has several when it speaks for several devices, as a relay does.
struct place {
    struct peer *peer;
    struct session *session;
    uint64_t serial;      // no other place has it
    uint64_t stays_until; // by uv_now(): it was taken over from a live connection, and stays so long; or 0
    bool heard;           // in the bytes at hand
    struct place *prev, *next; // of the peer, the one that spoke last at the end
};

struct session {
    char ident[CODEC_IDENT_MAX + 1];
    struct device device;
    struct place *tcp; // its connection, or NULL
    struct place *udp; // where it was last heard from over UDP, or NULL
    int64_t since;     // it has been here, by clock_ticks()
    int64_t came;      // the same by the wall clock: microseconds since 1970
    struct said said;  // the log entry that says so
    bool elsewhere;    // it has gone to another gateway
    bool settled;      // said has come back: what other gateways said before it has been heard
    bool takeover_told, rivalry_told;
    struct held_report *held; // reports that wait for their position, the oldest first
    UT_hash_handle by_ident, by_id;
};

struct session_table {
    struct session *by_ident;
    struct session *by_id;
    struct session *reloads; // the next one of those that are still to be given what the registry says
    struct session *admits;  // of those that are to be looked at whether there is a place for them now
};

enum session_arrival {
    SESSION_WAS_HERE,
    SESSION_NEW_HERE,
    SESSION_KEPT_ELSEWHERE,
    SESSION_MUST_WAIT, // only where the peer may; nothing is changed, and it is to be tried again soon
};

// The device of that ident speaks at peer: peer->session, ident and device are set. One that was at another
// peer is there no longer; a connection that spoke for it alone is closed (code 12). When that was alive, at another
// address, it is told, once a session. But with limits.takeover "keep" it stays at the connection that it has, and
// nothing is changed. A peer that may wait must do so, so that nothing is lost and two do not take over from each other
// all the time: while the other connection has said what is not taken yet, and for a second after that one has taken
// over itself. So must one whose device another gateway took over within this second. A peer that speaks for others too need not: they would wait as well.
enum session_arrival session_attach(struct peer *peer, const char *ident, const struct device *device);

// Nobody is known to speak at peer until the next session_attach(): a device is turned away there.
void session_silence(struct peer *peer);

// Takes peer out of all its sessions; a session without peers ends.
void session_detach(struct peer *peer);

// Takes the device of that ident out of peer, if it is there. The others stay.
void session_leave(struct peer *peer, const char *ident);

// The device that speaks at peer was heard from.
void session_note_heard(struct peer *peer);

// Tells the observer of all who were heard at peer since the last time.
void session_tell_heard(struct peer *peer);

// The broker tells of a log entry (JSON) that the device is connected. Our own: what others said about it before
// that has been heard. Another instance's behind that: the device is no longer here, and its connections are closed
// as above. The broker's order decides, since two gateways' clocks need not agree. But an entry that says that it
// comes late, as of a gateway that was without the broker, counts for nothing when it is more than a minute older than
// the device's arrival here, nor does one that names no instance.
void session_heard(struct channel_parts *parts, int64_t device_id, const char *entry, size_t length);

// Whether commands may be sent: not while a gateway that held the device before may still have to say what it
// has sent.
bool session_is_settled(const struct channel_parts *parts, const struct session *session);

// Gives a device that is here what the registry now says about it; closes it (code 13) when that no longer allows it,
// unless it spoke for others too.
void session_reload(struct session *session);
// The same for the device of that ident, if it is here. What waits for it may go out.
void sessions_reload_ident(const struct session_table *table, const char *ident);
// The same for all that are here, so many at a time; a session ends meanwhile as at any other time. Returns whether all
// have it.
void sessions_reload_begin(struct session_table *table);
bool sessions_reload_some(struct session_table *table, size_t count);

// Gives those devices outside the registry an identity that had none for want of a place (limits.unknown_devices), as
// far as there are places now, and as the limit by address lets them. Looks at as many of all that are here
// as a turn of the loop has time for; true when at all of them.
void sessions_admit_begin(struct session_table *table);
bool sessions_admit_some(struct channel_parts *parts);

// Whether a device outside the registry that speaks at peer gets an identity; device is what the registry says of it.
// One that is here does when it has one: only sessions_admit_some() gives it another. One that is new does when there is a
// place, and few others came from its address within the minute. When not, the log says so once a minute.
bool session_may_be_known(const struct peer *peer, const char *ident, const struct device *device);

// How many devices are here, over TCP or UDP.
size_t sessions_count(const struct session_table *table);

// Makes peer->captured hold: which captures ask for its devices. Looks at each of them only when others are asked for, or
// one that is asked for has gone or is called something else.
void session_find_captured(struct peer *peer);

// NULL when the device is not here. Only devices with an identity are found by an id.
struct session *session_by_ident(const struct session_table *table, const char *ident);
struct session *session_by_device_id(const struct session_table *table, int64_t id);

// Any place of the device.
struct peer *session_any_peer(const struct session *session);
