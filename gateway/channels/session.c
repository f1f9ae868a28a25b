// Sessions; see session.h.
#include "gateway/channels/session.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/channels/captures.h"
#include "gateway/channels/event.h"
#include "gateway/channels/gate.h"
#include "gateway/channels/held.h"

#define ALIVE       60000 // milliseconds for which a connection that was heard counts as alive
#define MINUTE      60000
#define STAY_TIME   1000     // milliseconds
#define STALE_TIME  60000000 // microseconds
#define SETTLE_TIME 2000000  // microseconds to wait for our own log entry, which may be behind many messages

size_t sessions_count(const struct session_table *table) {
    return HASH_CNT(by_ident, table->by_ident);
}

struct session *session_by_ident(const struct session_table *table, const char *ident) {
    struct session *session;
    HASH_FIND(by_ident, table->by_ident, ident, strlen(ident), session);
    return session;
}

// Only devices with an identity have the id to themselves: others may share a listed device's.
static void enter_id(struct session_table *table, struct session *session) {
    if (session->device.known)
        HASH_ADD(by_id, table->by_id, device.id, sizeof session->device.id, session);
}

static void leave_id(struct session_table *table, struct session *session) {
    if (session->device.known)
        HASH_DELETE(by_id, table->by_id, session);
}

struct session *session_by_device_id(const struct session_table *table, int64_t id) {
    struct session *session;
    HASH_FIND(by_id, table->by_id, &id, sizeof id, session);
    return session;
}

static struct session *find_or_make(const struct peer *peer, const char *ident, const struct device *device) {
    struct session_table *table = peer->parts->sessions;
    struct session *session = session_by_ident(table, ident);
    if (session != NULL)
        return session;
    session = must_have(calloc(1, sizeof *session));
    strcpy(session->ident, ident);
    session->device = *device;
    session->since = clock_ticks();
    session->came = clock_now();
    if (device->name == ident)
        session->device.name = session->ident;
    if (device->known)
        registry_admit(peer->parts->registry, ident);
    HASH_ADD_KEYPTR(by_ident, table->by_ident, session->ident, strlen(session->ident), session);
    enter_id(table, session);
    return session;
}

static void arrive(struct session *session, const struct peer *peer) {
    const struct channel_observer *observer = peer->parts->observer;
    session->said = event_presence(peer, session->ident, &session->device, true);
    observer->arrived(observer->context, session, peer->channel);
}

static void leave(const struct session *session, const struct peer *peer) {
    const struct channel_observer *observer = peer->parts->observer;
    event_presence(peer, session->ident, &session->device, false);
    observer->left(observer->context, session);
}

// --- captures ---

static uint64_t captures_of_session(const struct peer *peer, const struct session *session) {
    return captures_of(peer->parts->captures, session->ident, &session->device);
}

static bool captured_holds(const struct peer *peer) {
    return peer->captured_at == captures_asked(peer->parts->captures);
}

static void find_captured_again(struct place *place) {
    if (place != NULL)
        place->peer->captured_at = 0;
}

void session_find_captured(struct peer *peer) {
    const struct place *place;
    if (captured_holds(peer))
        return;
    peer->captured = 0;
    peer->captured_at = captures_asked(peer->parts->captures);
    DL_FOREACH(peer->places, place) {
        peer->captured |= captures_of_session(peer, place->session);
    }
}

// --- places ---

// Where the device is by the peer's transport.
static struct place **place_of(struct session *session, const struct peer *peer) {
    return peer->transport->is_udp ? &session->udp : &session->tcp;
}

void session_silence(struct peer *peer) {
    peer->session = NULL;
    peer->ident = NULL;
    peer->device = NULL;
}

static void speak(struct place *place) {
    struct peer *peer = place->peer;
    peer->session = place->session;
    peer->ident = place->session->ident;
    peer->device = &place->session->device;
    DL_DELETE(peer->places, place);
    DL_APPEND(peer->places, place);
}

static void enter(struct session *session, struct peer *peer) {
    struct place *place = must_have(calloc(1, sizeof *place));
    *place = (struct place){.peer = peer, .session = session, .serial = ++peer->parts->last_place};
    *place_of(session, peer) = place;
    DL_APPEND(peer->places, place);
    peer->place_count++;
    peer->parts->place_count++;
    if (captured_holds(peer))
        peer->captured |= captures_of_session(peer, session);
    speak(place);
}

static void end(struct session *session, const struct peer *peer) {
    struct session_table *table = peer->parts->sessions;
    leave(session, peer);
    if (table->reloads == session)
        table->reloads = session->by_ident.next;
    if (table->admits == session)
        table->admits = session->by_ident.next;
    HASH_DELETE(by_ident, table->by_ident, session);
    leave_id(table, session);
    free(session);
}

// It may come back, and begins anew then. What a codec remembers of all devices together is the others' too.
static void forget_device(struct peer *peer, const char *ident) {
    if (peer->channel->codec->sender != NULL)
        stream_forget(&peer->stream, ident);
}

static bool is_last(const struct place *place) {
    const struct session *session = place->session;
    return (session->tcp == NULL || session->tcp == place) && (session->udp == NULL || session->udp == place);
}

static void end_place(struct place *place) {
    struct session *session = place->session;
    struct peer *peer = place->peer;
    if (is_last(place)) // what the device has said comes before that it leaves
        held_release(peer->parts->held, &session->held);
    if (peer->session == session)
        session_silence(peer);
    if (*place_of(session, peer) == place)
        *place_of(session, peer) = NULL;
    forget_device(peer, session->ident);
    if (captures_of_session(peer, session) != 0)
        find_captured_again(place);
    DL_DELETE(peer->places, place);
    peer->place_count--;
    peer->parts->place_count--;
    free(place);
    if (session->tcp == NULL && session->udp == NULL)
        end(session, peer);
}

// Its connection goes, unless others use it too.
static void give_up(struct place *place, enum close_code code) {
    if (place->peer->place_count > 1)
        end_place(place);
    else
        place->peer->transport->close(place->peer, code);
}

// The one that has not spoken for longest.
static void bound_places(struct peer *peer) {
    bool many = peer->place_count > STREAM_DEVICES_MAX;
    if (!many && (peer->place_count < 2 || peer->parts->place_count <= PLACES_ALL_MAX))
        return;
    const char *ident = peer->places->session->ident;
    if (many)
        peer_warn(peer, "idents", NULL,
                  "speaks for more than %d devices: %s, heard longest ago, is disconnected",
                  STREAM_DEVICES_MAX, ident);
    else
        peer_warn(peer, "idents", NULL,
                  "all connections together speak for more than %d devices: %s, which this one spoke for "
                  "longest ago, is disconnected",
                  PLACES_ALL_MAX, ident);
    end_place(peer->places);
}

// --- two who say the same ident ---

static bool is_alive(const struct place *place) {
    return !place->peer->ended && uv_now(place->peer->parts->loop) - place->peer->last_heard < ALIVE;
}

static bool is_to_stay(const struct place *place) {
    return uv_now(place->peer->parts->loop) < place->stays_until;
}

// What a connection has said is taken before it is closed. And two who take over from each other all the time do so
// once a second.
static bool must_wait(const struct peer *peer, const struct place *old) {
    const struct peer *other = old->peer;
    if (!peer->may_wait || peer->places != NULL)
        return false;
    bool behind =
        other->place_count == 1 && other->transport->is_behind != NULL && other->transport->is_behind(other);
    return behind || is_to_stay(old);
}

static void tell_rivalry(struct session *session, const struct place *old, const struct peer *peer) {
    if (session->rivalry_told || !is_to_stay(old))
        return;
    session->rivalry_told = true;
    log_warning("channel %s, %s, device %s: waits, since %s took over from another connection less than a "
                "second ago: two "
                "devices with one ident, or one that connects again and again",
                peer->channel->name, peer->address, session->ident, old->peer->address);
}

// Over UDP a device changes its address as its operator likes.
static void tell_takeover(struct session *session, const struct place *old, const struct peer *peer) {
    if (session->takeover_told || !is_alive(old) || memcmp(old->peer->ip, peer->ip, sizeof peer->ip) == 0)
        return;
    session->takeover_told = true;
    event_takeover(peer, session->ident, &session->device, old->peer->address);
    log_warning(
        "channel %s, %s, device %s: takes over from %s, which was heard less than a minute ago: two devices "
        "with one ident, or somebody else",
        peer->channel->name, peer->address, session->ident, old->peer->address);
}

// What keeps a device at the connection that it has, or SESSION_NEW_HERE.
static enum session_arrival judge_takeover(struct session *session, const struct place *old,
                                           const struct peer *peer) {
    if (peer->transport->is_udp) // an address is only where it was last heard from: there is nothing to keep
        return SESSION_NEW_HERE;
    if (peer->parts->config->limits.takeover == TAKEOVER_KEEP && !old->peer->ended)
        return SESSION_KEPT_ELSEWHERE;
    if (must_wait(peer, old)) {
        tell_rivalry(session, old, peer);
        return SESSION_MUST_WAIT;
    }
    tell_takeover(session, old, peer);
    return SESSION_NEW_HERE;
}

// Two who take over from each other at two gateways do so once a second at each.
static bool has_just_left_for_another_gateway(const struct peer *peer, const char *ident) {
    struct channel_parts *parts = peer->parts;
    return peer->may_wait && peer->places == NULL &&
           limiter_has_counted(&parts->moved_limiter, uv_now(parts->loop), ident, strlen(ident));
}

enum session_arrival session_attach(struct peer *peer, const char *ident, const struct device *device) {
    struct session *session = session_by_ident(peer->parts->sessions, ident);
    struct place *old = session != NULL ? *place_of(session, peer) : NULL;
    if (old != NULL && old->peer == peer) {
        speak(old);
        return SESSION_WAS_HERE;
    }
    enum session_arrival arrival = old != NULL ? judge_takeover(session, old, peer) : SESSION_NEW_HERE;
    if (session == NULL && has_just_left_for_another_gateway(peer, ident))
        arrival = SESSION_MUST_WAIT;
    if (arrival != SESSION_NEW_HERE)
        return arrival;
    session = find_or_make(peer, ident, device);
    if (session->tcp == NULL && session->udp == NULL)
        arrive(session, peer);
    else if (session_any_peer(session)->channel != peer->channel)
        peer->parts->observer->arrived(peer->parts->observer->context, session, peer->channel);
    enter(session, peer);
    if (old != NULL && is_alive(old))
        (*place_of(session, peer))->stays_until = uv_now(peer->parts->loop) + STAY_TIME;
    // It is in the session until then, so that its log line says whose connection it was.
    if (old != NULL)
        give_up(old, CLOSE_SAME_IDENT);
    bound_places(peer);
    return SESSION_NEW_HERE;
}

void session_detach(struct peer *peer) {
    while (peer->places != NULL)
        end_place(peer->places);
}

void session_leave(struct peer *peer, const char *ident) {
    struct session *session = session_by_ident(peer->parts->sessions, ident);
    struct place *place = session != NULL ? *place_of(session, peer) : NULL;
    if (place != NULL && place->peer == peer)
        end_place(place);
}

void session_note_heard(struct peer *peer) {
    if (peer->session != NULL)
        (*place_of(peer->session, peer))->heard = true;
}

// Who was heard has spoken, and so stands at the end.
void session_tell_heard(struct peer *peer) {
    const struct channel_observer *observer = peer->parts->observer;
    struct place *place = peer->places != NULL ? peer->places->prev : NULL, *before;
    for (; place != NULL && place->heard; place = before) {
        before = place != peer->places ? place->prev : NULL;
        place->heard = false;
        observer->talks(observer->context, place->session);
    }
}

// The quiet period after its arrival is over: what waits for the device may go out.
static void settle(const struct channel_parts *parts, struct session *session) {
    if (session->settled)
        return;
    session->settled = true;
    parts->observer->talks(parts->observer->context, session);
}

static void close_all(struct session *session, enum close_code code) {
    struct place *tcp = session->tcp, *udp = session->udp;
    if (tcp != NULL)
        give_up(tcp, code);
    if (udp != NULL)
        give_up(udp, code);
}

// Our own entry of this session, and not one of an earlier session.
static bool is_said(const struct session *session, const json_t *entry) {
    return session->said.timestamp != 0 && event_timestamp(entry) == session->said.timestamp;
}

static bool is_over(const struct session *session) {
    return clock_ticks() - session->since > SETTLE_TIME;
}

// Whether what comes now stands behind our own entry. That comes with QoS 0 and may be lost: then it is enough that
// the broker has it, after a while.
static bool is_behind(const struct channel_parts *parts, const struct session *session) {
    return session->settled || (is_over(session) && bus_has_taken(parts->bus, session->said.number));
}

// Whether the device came here long after that was said. Two machines' clocks need not agree, and are asked only where
// the broker's order says nothing: they are believed to a minute, no more.
static bool is_stale(const struct session *session, const json_t *entry) {
    int64_t said = event_timestamp(entry);
    return json_is_true(json_object_get(entry, "late")) && clock_is_set(said) &&
           clock_is_set(session->came) && said < session->came - STALE_TIME;
}

void session_heard(struct channel_parts *parts, int64_t device_id, const char *entry, size_t length) {
    struct session *session = session_by_device_id(parts->sessions, device_id);
    if (session == NULL)
        return;
    json_t *json = json_loadb(entry, length, 0, NULL);
    const char *instance = json_string_value(json_object_get(json, "instance"));
    bool own = bus_is_own(parts->bus, instance), said = own && is_said(session, json);
    bool moved = instance != NULL && !own && is_behind(parts, session) && !is_stale(session, json);
    json_decref(json);
    if (said) {
        settle(parts, session);
    } else if (moved) {
        session->elsewhere = true;
        limiter_charge(&parts->moved_limiter, uv_now(parts->loop), session->ident, strlen(session->ident), 1);
        close_all(session, CLOSE_SAME_IDENT);
    }
}

bool session_is_settled(const struct channel_parts *parts, const struct session *session) {
    return session->settled || !session->device.known || !bus_is_up(parts->bus) || is_over(session);
}

// --- devices outside the registry ---

static void tell_full(const struct peer *peer, const char *ident, const char *why) {
    struct channel_parts *parts = peer->parts;
    uint64_t now = uv_now(parts->loop);
    if (parts->full_told != 0 && now - parts->full_told < MINUTE)
        return;
    parts->full_told = now;
    log_warning(
        "channel %s, %s, device %s: it has no identity, and is published on the channel topic only: %s",
        peer->channel->name, peer->address, ident, why);
}

// One whose id is that of a listed device has none, and takes no place.
static bool may_be_known(const struct peer *peer, const char *ident, const struct device *device) {
    struct channel_parts *parts = peer->parts;
    if (registry_has_stranger(parts->registry, ident))
        return device->known;
    if (registry_is_full(parts->registry)) {
        tell_full(peer, ident, "so many devices outside the registry have one (limits.unknown_devices)");
        return false;
    }
    if (!device->known)
        return false;
    // The limiter's seconds are minutes here.
    if (limiter_allows(&parts->stranger_limiter, uv_now(parts->loop) / 60, peer->ip, sizeof peer->ip, NULL))
        return true;
    tell_full(peer, ident, "too many new devices outside the registry came from its address in this minute");
    return false;
}

bool session_may_be_known(const struct peer *peer, const char *ident, const struct device *device) {
    const struct session *session = session_by_ident(peer->parts->sessions, ident);
    return session != NULL ? session->device.known : may_be_known(peer, ident, device);
}

// --- a registry that has changed ---

struct peer *session_any_peer(const struct session *session) {
    return session->tcp != NULL ? session->tcp->peer : session->udp->peer;
}

// Captures may call it by its name or its id.
static void set_device(struct session *session, const struct device *device) {
    const struct peer *peer = session_any_peer(session);
    uint64_t before = captures_of_session(peer, session);
    session->device = *device;
    if (captures_of_session(peer, session) == before)
        return;
    find_captured_again(session->tcp);
    find_captured_again(session->udp);
}

// The device begins anew under its new id. While ids are exchanged, two may briefly have the same one.
static void take_identity(struct session_table *table, struct session *session, const struct device *device) {
    struct peer *peer = session_any_peer(session);
    held_release(peer->parts->held, &session->held);
    leave(session, peer);
    leave_id(table, session);
    set_device(session, device);
    enter_id(table, session);
    session->since = clock_ticks();
    session->came = clock_now();
    session->settled = false;
    arrive(session, peer);
}

void session_reload(struct session *session) {
    const struct peer *peer = session_any_peer(session);
    struct channel_parts *parts = peer->parts;
    struct device device = registry_device(parts->registry, session->ident);
    if (!device.listed && !session->device.known)
        device.known = device.known && may_be_known(peer, session->ident, &device);
    if (device.known)
        registry_admit(parts->registry, session->ident);
    if (!device.allowed)
        close_all(session, CLOSE_REJECTED);
    else if (device.known == session->device.known && device.id == session->device.id)
        set_device(session, &device);
    else
        take_identity(parts->sessions, session, &device);
}

void sessions_reload_ident(const struct session_table *table, const char *ident) {
    struct session *session = session_by_ident(table, ident);
    if (session == NULL)
        return;
    const struct channel_parts *parts = session_any_peer(session)->parts;
    session_reload(session);
    session = session_by_ident(table, ident);
    if (session != NULL)
        parts->observer->talks(parts->observer->context, session);
}

void sessions_reload_begin(struct session_table *table) {
    table->reloads = table->by_ident;
}

// What waits for it may go out: perhaps its id is another one now.
static void reload_next(struct session_table *table) {
    struct session *session = table->reloads;
    const struct channel_parts *parts = session_any_peer(session)->parts;
    session_reload(session);
    if (table->reloads != session)
        return; // it is gone
    table->reloads = session->by_ident.next;
    parts->observer->talks(parts->observer->context, session);
}

bool sessions_reload_some(struct session_table *table, size_t count) {
    for (; table->reloads != NULL && count > 0; count--)
        reload_next(table);
    return table->reloads == NULL;
}

static void admit(struct channel_parts *parts, struct session *session) {
    struct device device;
    if (session->device.known)
        return;
    device = registry_device(parts->registry, session->ident);
    if (!device.known || !may_be_known(session_any_peer(session), session->ident, &device))
        return;
    registry_admit(parts->registry, session->ident);
    take_identity(parts->sessions, session, &device);
}

void sessions_admit_begin(struct session_table *table) {
    table->admits = table->by_ident;
}

// One at least, so that they are not behind all else that is due.
bool sessions_admit_some(struct channel_parts *parts) {
    struct session_table *table = parts->sessions;
    for (bool may = true; table->admits != NULL && may; may = gate_does_more(parts->gate)) {
        struct session *session = table->admits;
        table->admits = session->by_ident.next;
        admit(parts, session);
    }
    return table->admits == NULL;
}
