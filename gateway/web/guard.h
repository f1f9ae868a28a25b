// Who may ask: sessions and logins, and requests that another page makes a browser send.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/config/config.h"
#include "gateway/web/http.h"
#include "gateway/web/login.h"

struct guard {
    const struct config *config;
    struct login *login;
};

// The user of the request's session, or NULL. result: LOGIN_NONE when the request does not try to log in, else why it is
// not, or LOGIN_DONE.
const char *guard_user(const struct guard *guard, const struct http_request *request,
                       enum login_result *result);

// The number of that session, see login_session(); 0 when there is none.
uint64_t guard_session(const struct guard *guard, const struct http_request *request);

// Whether the request comes from our own page, or from no page at all. A page elsewhere could make a browser send one, and with
// a name that it lets point to this machine even read the answer.
bool guard_is_own(const struct guard *guard, const struct http_request *request);

#define GUARD_NOT_OWN "this comes from a page elsewhere, or under a name that is not this machine's"

// NULL when that user (or NULL) may command, capture and change the registry, else why not.
const char *guard_refusal_to_command(const struct guard *guard, const char *user);

// Why somebody who is not logged in sees nothing, and the status that says so. result is of guard_user().
const char *guard_login_fault(const struct http_request *request, enum login_result result, unsigned *status);

// Logs in and out. From the form of the login page the answer is a page, from JSON it is JSON.
struct http_answer guard_log_in(const struct guard *guard, struct http_request *request);
struct http_answer guard_log_out(const struct guard *guard, struct http_request *request);
// What somebody who is not logged in gets: the login page, or for programs the reason. result is of guard_user().
struct http_answer guard_refuse(const struct guard *guard, const struct http_request *request,
                                enum login_result result);

// Headers that each answer has.
void guard_add_headers(const struct guard *guard, struct http_answer answer);
