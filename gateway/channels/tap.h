// The tap: takes the bytes of a peer in both directions for those captures that want them; see captures.h. While none
// runs it costs a look at a number.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gateway/channels/peer.h"

// Bytes came, and are about to be read. Which device they are from may become known only by that.
void tap_received(struct peer *peer, const uint8_t *bytes, size_t length);
// They have been read. The bytes must still be there.
void tap_taken(struct peer *peer);

// Bytes were handed to the network, and are counted in peer->sent.
void tap_sent(struct peer *peer, const uint8_t *bytes, size_t length);

// Frees what is held of a peer.
void tap_forget(struct peer *peer);
