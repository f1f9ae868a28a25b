// The HTTP API and the page: who may ask for what, and which function answers.
#pragma once

#include "gateway/web/http.h"
#include "gateway/web/parts.h"

struct api;

struct api *api_new(const struct api_parts *parts);
void api_free(struct api *api);

// Answers a request: an http_handler.
struct http_answer api_answer(void *context, struct http_request *request);
// Refuses one that is not to be asked: an http_refusal.
struct http_answer api_refusal(const char *path, unsigned status, const char *why);
