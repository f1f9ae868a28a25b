// The answer of a geolocation service: what it says, or what is wrong with it.
#pragma once

#include <stddef.h>

#include "gateway/geolocation/location.h"
#include "gateway/geolocation/surroundings.h"

#define ANSWER_REASON_MAX 160

enum answer_verdict {
    ANSWER_FOUND,
    ANSWER_NOT_FOUND, // it does not know these surroundings
    ANSWER_FAILED,    // it did not answer the question; another time it may
    ANSWER_REFUSED,   // the same, and it does not want to be asked: too many questions, or a wrong key
};

// Reads it: an HTTP status, and length bytes of body. Fills place when it is found, and reason (ANSWER_REASON_MAX bytes)
// when it failed or was refused. asked is what it was asked about.
enum answer_verdict answer_read(long status, const char *body, size_t length,
                                const struct surroundings *asked, struct location *place, char *reason);
