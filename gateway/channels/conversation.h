// The conversation with a peer: what becomes of what it says. Messages go to the outbox, replies back to the
// device, answers and news to the observer, faults into the log.
#pragma once

#include "gateway/channels/peer.h"

// Fills a peer that is all zero; address is copied, the rest stays the caller's.
void conversation_begin(struct peer *peer, struct channel_parts *parts, const struct config_channel *channel,
                        struct stream_counters *counters, const struct peer_transport *transport,
                        const struct sockaddr *address);

// The same peer, at another address: a balancer has said where it is.
void conversation_move(struct peer *peer, const struct sockaddr *address);

// Warns of a fault of the peer that is not one of its bytes, and publishes it, within the limits of peer_warn(); kind
// is as there, verdict a word for programs.
void conversation_report(const struct peer *peer, const char *kind, const char *verdict, const char *text);

// Leaves the session and frees what the peer holds, but not the peer.
void conversation_end(struct peer *peer);

// Takes what came from the device. Returns the code to close it with, or CLOSE_NONE. When peer->stream.postponed is set
// then, the peer has to wait (which only peer->may_wait allows): nothing more is read from it, and before that this is
// called again with the same follow and without bytes.
enum close_code conversation_take(struct peer *peer, const uint8_t *bytes, size_t length,
                                  enum codec_follow follow);
