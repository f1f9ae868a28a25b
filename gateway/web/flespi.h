// flespi's HTTP API, as far as TrackIt and other clients of flespi read it: what they get is what the page knows. Everything
// below /gw/, with flespi's selectors, fields and form of answers; see README.md under "flespi's API".
#pragma once

#include <stdbool.h>

#include "gateway/web/guard.h"
#include "gateway/web/parts.h"

// Whether the path is one of these.
bool flespi_has(const char *path);

// Answers, or HTTP_LATER. user (or NULL) and result are of guard_user().
struct http_answer flespi_answer(const struct api_parts *parts, const struct guard *guard,
                                 struct http_request *request, const char *user, enum login_result result);
