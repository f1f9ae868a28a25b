// Asks the page's server by plain HTTP, as a program would.
#pragma once

#include <stddef.h>

struct rig;

// Where the gateway of this rig serves the page, as its log says.
int http_page_port(struct rig *rig);

// A connection to that port of this machine, which gives up a read after the usual deadline.
int http_connect(int port);

// Sends a request ("GET /path") with these headers ("" or lines that end with \r\n) and body; returns the whole answer,
// good until the next call.
const char *http_ask(int port, const char *line, const char *headers, const char *body);

// The answer has this status and contains text.
void http_expect(int port, const char *line, const char *headers, const char *body, int status,
                 const char *text);

// Asks until the answer contains text.
void http_expect_soon(int port, const char *line, const char *headers, const char *text);

// Sends these bytes, and expects an answer of that status, the first digit of which alone may be given (4 for 4xx).
void http_expect_raw(int port, const char *bytes, size_t length, int status);

// Reads from a connection until the text comes, which may stand anywhere.
void http_read_until(int descriptor, const char *text);
