// Sessions; see session.h.
#include "gateway/channels/session.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/channels/event.h"
#include "gateway/channels/peer.h"
#include "gateway/run/gateway.h"

#define SETTLE_TIME 2000000 // microseconds to wait for our own log entry, which may be behind many messages

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

static struct session *find_or_make(struct session_table *table, const char *ident,
                                    const struct device *device) {
    struct session *session = session_by_ident(table, ident);
    if (session != NULL)
        return session;
    session = must_have(calloc(1, sizeof *session));
    strcpy(session->ident, ident);
    session->device = *device;
    session->since = gateway_clock();
    if (device->name == ident)
        session->device.name = session->ident;
    HASH_ADD_KEYPTR(by_ident, table->by_ident, session->ident, strlen(session->ident), session);
    enter_id(table, session);
    return session;
}

static void arrive(struct gateway *gateway, const struct session *session, const struct peer *peer) {
    event_presence(session, peer, true);
    device_state_connected(gateway, session, peer);
}

static void leave(struct gateway *gateway, const struct session *session, const struct peer *peer) {
    event_presence(session, peer, false);
    device_state_disconnected(gateway, session, session->elsewhere);
}

void session_attach(struct gateway *gateway, struct peer *peer, const char *ident,
                    const struct device *device) {
    session_detach(gateway, peer);
    struct session *session = find_or_make(&gateway->sessions, ident, device);
    struct peer **place = peer->transport->is_udp ? &session->udp : &session->tcp;
    struct peer *old = *place;
    if (session->tcp == NULL && session->udp == NULL)
        arrive(gateway, session, peer);
    *place = peer;
    peer->session = session;
    // It is in the session until then, so that its log line says whose connection it was.
    if (old != NULL)
        old->transport->close(old, CLOSE_SAME_IDENT);
}

void session_detach(struct gateway *gateway, struct peer *peer) {
    struct session *session = peer->session;
    if (session == NULL)
        return;
    peer->session = NULL;
    if (session->tcp == peer)
        session->tcp = NULL;
    if (session->udp == peer)
        session->udp = NULL;
    if (session->tcp != NULL || session->udp != NULL)
        return;
    leave(gateway, session, peer);
    HASH_DELETE(by_ident, gateway->sessions.by_ident, session);
    leave_id(&gateway->sessions, session);
    free(session);
}

// Microseconds since 1970; INT64_MAX when it is not said.
static int64_t time_of(const json_t *entry) {
    const json_t *timestamp = json_object_get(entry, "timestamp");
    double seconds = json_is_number(timestamp) ? json_number_value(timestamp) : 1e12;
    return seconds >= 0 && seconds < 1e12 ? (int64_t)(seconds * 1e6 + 1)
                                          : INT64_MAX; // a double may be less by one
}

static void settle(struct gateway *gateway, struct session *session) {
    if (session->settled)
        return;
    session->settled = true;
    commands_device_talks(gateway, session);
}

static void let_go(struct session *session) {
    struct peer *tcp = session->tcp, *udp = session->udp;
    session->elsewhere = true;
    if (tcp != NULL)
        tcp->transport->close(tcp, CLOSE_SAME_IDENT);
    if (udp != NULL)
        udp->transport->close(udp, CLOSE_SAME_IDENT);
}

void session_heard(struct gateway *gateway, int64_t device_id, const char *entry, size_t length) {
    struct session *session = session_by_device_id(&gateway->sessions, device_id);
    if (session == NULL)
        return;
    json_t *json = json_loadb(entry, length, 0, NULL);
    const char *instance = json_string_value(json_object_get(json, "instance"));
    bool own = instance != NULL && strcmp(instance, gateway->config->mqtt.client_id) == 0;
    bool others = instance != NULL && !own;
    bool late = time_of(json) < session->since; // of a time before the device came here
    json_decref(json);
    if (!late && own)
        settle(gateway, session);
    else if (!late && others)
        let_go(session);
}

bool session_is_settled(const struct gateway *gateway, const struct session *session) {
    return session->settled || !session->device.known || !mqtt_link_is_up(gateway->link) ||
           gateway_clock() - session->since > SETTLE_TIME;
}

// --- a registry that has changed ---

static struct peer *any_peer(const struct session *session) {
    return session->tcp != NULL ? session->tcp : session->udp;
}

static void turn_away(struct session *session) {
    struct peer *tcp = session->tcp, *udp = session->udp;
    if (tcp != NULL)
        tcp->transport->close(tcp, CLOSE_REJECTED);
    if (udp != NULL)
        udp->transport->close(udp, CLOSE_REJECTED);
}

// The device begins anew under its new id. For a moment two may have one, where ids are exchanged.
static void take_identity(struct gateway *gateway, struct session *session, const struct device *device) {
    struct peer *peer = any_peer(session);
    leave(gateway, session, peer);
    leave_id(&gateway->sessions, session);
    session->device = *device;
    enter_id(&gateway->sessions, session);
    session->since = gateway_clock();
    session->settled = false;
    arrive(gateway, session, peer);
}

void sessions_reload(struct gateway *gateway) {
    struct session_table *table = &gateway->sessions;
    struct session *session, *next;
    HASH_ITER(by_ident, table->by_ident, session, next) {
        struct device device = registry_device(gateway->registry, session->ident);
        if (!device.allowed)
            turn_away(session);
        else if (device.known == session->device.known && device.id == session->device.id)
            session->device = device;
        else
            take_identity(gateway, session, &device);
    }
    HASH_ITER(by_ident, table->by_ident, session, next) {
        commands_device_talks(gateway, session);
    }
}

struct peer *session_reachable(const struct session *session, uint64_t reachable) {
    if (session->tcp != NULL)
        return session->tcp;
    if (session->udp == NULL)
        return NULL;
    uint64_t now = uv_now(&session->udp->gateway->loop);
    return now - session->udp->last_heard <= reachable ? session->udp : NULL;
}
