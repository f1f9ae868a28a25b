// Sessions; see session.h.
#include "gateway/session.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/gateway.h"
#include "gateway/memory.h"
#include "gateway/peer.h"

struct session *session_by_ident(const struct session_table *table, const char *ident) {
    struct session *session;
    HASH_FIND(by_ident, table->by_ident, ident, strlen(ident), session);
    return session;
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
    if (device->name == ident)
        session->device.name = session->ident;
    HASH_ADD_KEYPTR(by_ident, table->by_ident, session->ident, strlen(session->ident), session);
    HASH_ADD(by_id, table->by_id, device.id, sizeof session->device.id, session);
    return session;
}

void session_attach(struct gateway *gateway, struct peer *peer, const char *ident,
                    const struct device *device) {
    session_detach(gateway, peer);
    struct session *session = find_or_make(&gateway->sessions, ident, device);
    struct peer **place = peer->transport->is_udp ? &session->udp : &session->tcp;
    struct peer *old = *place;
    *place = peer;
    peer->session = session;
    // It is in the session until then, so that its log line says whose connection it was.
    if (old != NULL)
        old->transport->close(old, CLOSE_SAME_IDENT);
}

void session_release(struct gateway *gateway, struct session *session) {
    if (session->tcp != NULL || session->udp != NULL || session->commands != NULL)
        return;
    HASH_DELETE(by_ident, gateway->sessions.by_ident, session);
    HASH_DELETE(by_id, gateway->sessions.by_id, session);
    free(session);
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
    session_release(gateway, session);
}

struct peer *session_reachable(const struct session *session, uint64_t reachable) {
    if (session->tcp != NULL)
        return session->tcp;
    if (session->udp == NULL)
        return NULL;
    uint64_t now = uv_now(&session->udp->gateway->loop);
    return now - session->udp->last_heard <= reachable ? session->udp : NULL;
}
