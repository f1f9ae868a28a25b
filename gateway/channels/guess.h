// What a device on the wrong port speaks: a guess at bytes that the channel's codec makes no sense of.
#pragma once

#include "gateway/channels/peer.h"

#define GUESS_TEXT_MAX 192

// Writes what the bytes that the peer began with look like, and where that is spoken: "this looks like
// mictrack; channel mictrack listens on 7700". False, with text untouched, when they look like nothing.
bool guess_protocol(const struct peer *peer, const uint8_t *bytes, size_t length, char text[GUESS_TEXT_MAX]);
