// Who may look: the users file, sessions, and a limit on failures.
//
// The users file has a line for each user, NAME:HASH, the hash made by libcrypt's yescrypt, and a line for each token,
// NAME:$token$HASH, the hash SHA-256: a token has 256 random bits that nobody guesses, and comes with each request. It is read again when it
// has changed. A session is a random cookie; nothing of it is kept on disk, so that a restart ends all of them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOGIN_USER_MAX     64
#define LOGIN_PASSWORD_MIN 8
#define LOGIN_TOKEN_SIZE   65
#define LOGIN_SECONDS      43200          // that a session lasts without being used
#define LOGIN_TOKEN        "FlespiToken " // begins a header with a token of the users file

struct login;

// path (or NULL: nobody logs in) stays the caller's.
struct login *login_new(const char *path);
void login_free(struct login *login);
bool login_is_needed(const struct login *login);

enum login_result { LOGIN_NONE, LOGIN_DONE, LOGIN_WRONG, LOGIN_TOO_OFTEN }; // NONE: not tried

// Checks name and password and begins a session, whose token is written to token (LOGIN_TOKEN_SIZE bytes). address is the client's;
// after five failures from one address (of IPv6: one network of 64 bits), or a hundred from everywhere in a minute, nothing is checked until a minute is over. now is clock_ticks().
enum login_result login_begin(struct login *login, const char *address, const char *name,
                              const char *password, int64_t now, char *token);
// The same for an Authorization header ("Basic …", or "FlespiToken …"), as programs send it with each request: the header is the
// token of the session. Wrong tokens are counted apart, and keep out neither a right one nor a password. Returns the user's
// name, or NULL.
const char *login_header(struct login *login, const char *address, const char *authorization, int64_t now,
                         enum login_result *result);
// The name of the session's user, or NULL.
const char *login_user(struct login *login, const char *token, int64_t now);
// The number of that session, which no other will have; 0 when there is none.
uint64_t login_session(struct login *login, const char *token, int64_t now);
// Whether the session of that number has not ended; it has then been used.
bool login_holds(struct login *login, uint64_t number, int64_t now);
void login_end(struct login *login, const char *token, int64_t now);
// Reads the file again when it has changed, and ends the sessions of users who are gone, or whose
// password has changed. Cheap.
void login_refresh(struct login *login);

// Adds a user to the file, or changes his password; the file keeps its owner and its mode. NULL when that is done, else why not, for the caller to free.
char *login_add_user(const char *path, const char *name, const char *password);

// Adds a token of that user to the file, and writes it to token. The rest as with login_add_user().
char *login_add_token(const char *path, const char *name, char token[LOGIN_TOKEN_SIZE]);

// NULL when the file can be read and has a user, else what is wrong, for the caller to free.
char *login_check_file(const char *path);
