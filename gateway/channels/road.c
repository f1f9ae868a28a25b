// The road to a device; see road.h.
#include "gateway/channels/road.h"

#include "gateway/channels/session.h"

static void send_bytes(void *context, const uint8_t *bytes, size_t length) {
    struct peer *peer = context;
    peer->transport->send(peer, bytes, length);
}

struct road road_of(struct peer *peer, const struct session *session) {
    const struct place *place = peer->transport->is_udp ? session->udp : session->tcp;
    return (struct road){.channel = peer->channel,
                         .ident = session->ident,
                         .device_id = session->device.known ? session->device.id : -1,
                         .source = peer->address,
                         .is_udp = peer->transport->is_udp,
                         .serial = place->serial,
                         .codec_session = stream_session(&peer->stream, session->ident),
                         .context = peer,
                         .send = send_bytes};
}

static const struct session *find_session(const struct session_table *sessions, int64_t device_id,
                                          const char *ident) {
    const struct session *session =
        device_id >= 0 ? session_by_device_id(sessions, device_id) : session_by_ident(sessions, ident);
    // An unlisted ident may hash to a listed device's id, and an identity may have changed.
    return session != NULL && session->device.known == (device_id >= 0) ? session : NULL;
}

static struct peer *reachable_peer(const struct channel_parts *parts, const struct session *session) {
    uint64_t reachable = (uint64_t)parts->config->commands.udp_reachable * 1000;
    if (session->tcp != NULL)
        return session->tcp->peer;
    bool heard = session->udp != NULL && uv_now(parts->loop) - session->udp->peer->last_heard <= reachable;
    return heard ? session->udp->peer : NULL;
}

bool road_find(const struct channel_parts *parts, int64_t device_id, const char *ident, struct road *road) {
    const struct session *session = find_session(parts->sessions, device_id, ident);
    bool here = session != NULL && session_is_settled(parts, session);
    struct peer *peer = here ? reachable_peer(parts, session) : NULL;
    if (peer == NULL)
        return false;
    *road = road_of(peer, session);
    return true;
}
