// Who may look; see login.h.
#include "gateway/web/login.h"

#include <arpa/inet.h>
#include <crypt.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utlist.h>

#include "gateway/base/hex.h"
#include "gateway/base/limiter.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define SESSIONS_MAX    1000
#define TOKEN_BYTES     32
#define TOKEN_MARK      "$token$" // begins the hash of a token; no password has such a hash
#define DIGEST          32        // bytes
#define HEADER_MAX      512       // bytes of an Authorization header
#define FAILURES_MAX    5         // of one address in a minute
#define FAILURES_ALL    100       // of all together
#define FAILURE_PLACES  1024
#define MINUTE          60000000LL // microseconds
#define USERS_BYTES_MAX (1 << 20)
#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-"

// A line of the file: a user's password, or a token of his.
struct user {
    char *name, *hash;
    bool token;
    struct user *next;
};

struct session {
    uint64_t number;
    char *token;
    char name[LOGIN_USER_MAX + 1];
    char *hash;   // of the password with which it began
    int64_t used; // by clock_ticks()
    struct session *prev, *next;
};

struct failures {
    int64_t since;
    unsigned count;
};

struct login {
    const char *path;
    struct user *users;
    struct timespec changed;  // of the file as it was read
    struct session *sessions; // the one used last comes first
    size_t session_count;
    uint64_t last_session;
    uint64_t key[2];
    struct failures all, places[FAILURE_PLACES]; // by a hash of the address
    struct failures tokens[FAILURE_PLACES];      // of tokens, the same
};

// --- the file ---

static void free_users(struct user *users) {
    struct user *user, *next;
    LL_FOREACH_SAFE(users, user, next) {
        free(user->name);
        free(user->hash);
        free(user);
    }
}

static void take_line(struct user **users, char *line) {
    char *hash = strchr(line, ':');
    line[strcspn(line, "\r\n")] = '\0';
    if (hash == NULL || *line == '#')
        return;
    *hash++ = '\0';
    struct user *user = must_have(calloc(1, sizeof *user));
    *user = (struct user){.name = must_have(strdup(line)),
                          .hash = must_have(strdup(hash)),
                          .token = strncmp(hash, TOKEN_MARK, strlen(TOKEN_MARK)) == 0};
    LL_APPEND(*users, user);
}

// False, with *users untouched, when it cannot be read (errno says why).
static bool read_users(const char *path, struct user **users) {
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0, bytes = 0;
    ssize_t length;
    struct user *read = NULL;
    if (file == NULL)
        return false;
    while ((length = getline(&line, &capacity, file)) > 0 && (bytes += (size_t)length) < USERS_BYTES_MAX)
        take_line(&read, line);
    free(line);
    bool whole = !ferror(file);
    fclose(file);
    if (whole)
        *users = read;
    else
        free_users(read);
    return whole;
}

char *login_check_file(const char *path) {
    struct user *users = NULL;
    if (!read_users(path, &users))
        return text_format("is \"%s\", which cannot be read: %s%s", path, strerror(errno),
                           errno == ENOENT ? "; make it with: trackbus web --add-user NAME" : "");
    bool empty = users == NULL;
    free_users(users);
    return empty ? text_format("is \"%s\", which has no user; make one with: trackbus web --add-user NAME",
                               path)
                 : NULL;
}

static void drop(struct login *login, struct session *session) {
    DL_DELETE(login->sessions, session);
    login->session_count--;
    explicit_bzero(session->token, strlen(session->token));
    free(session->token);
    free(session->hash);
    free(session);
}

// The line with the password of that user; of anybody with NULL.
static const struct user *find_user(const struct login *login, const char *name) {
    const struct user *user = login->users;
    while (user != NULL && (user->token || (name != NULL && strcmp(user->name, name) != 0)))
        user = user->next;
    return user;
}

// Whether the file still has the line with which the session began.
static bool is_in_force(const struct login *login, const struct session *session) {
    const struct user *user = login->users;
    while (user != NULL && (strcmp(user->name, session->name) != 0 || strcmp(user->hash, session->hash) != 0))
        user = user->next;
    return user != NULL;
}

// Those of users and tokens that are gone, or whose password is another now.
static void end_outdated_sessions(struct login *login) {
    struct session *session, *next;
    DL_FOREACH_SAFE(login->sessions, session, next) {
        if (!is_in_force(login, session))
            drop(login, session);
    }
}

// A file that cannot be read any more changes nothing.
void login_refresh(struct login *login) {
    struct stat status;
    struct user *users;
    if (login->path == NULL || stat(login->path, &status) != 0 ||
        memcmp(&status.st_mtim, &login->changed, sizeof login->changed) == 0)
        return;
    if (!read_users(login->path, &users)) {
        log_warning("the users file %s cannot be read: %s", login->path, strerror(errno));
        return;
    }
    free_users(login->users);
    login->users = users;
    login->changed = status.st_mtim;
    end_outdated_sessions(login);
}

static bool is_name(const char *name) {
    size_t length = strlen(name);
    return length >= 1 && length <= LOGIN_USER_MAX && strspn(name, NAME_CHARACTERS) == length;
}

static char *hash_of(const char *password) {
    static struct crypt_data data; // large
    char setting[CRYPT_GENSALT_OUTPUT_SIZE];
    if (crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof setting) == NULL)
        return NULL;
    const char *hash = crypt_rn(password, setting, &data, sizeof data);
    return hash != NULL ? must_have(strdup(hash)) : NULL;
}

// A password replaces the one before; a token is added to others.
static void write_users(FILE *file, const struct user *users, const struct user *added) {
    const struct user *user;
    LL_FOREACH(users, user) {
        if (added->token || user->token || strcmp(user->name, added->name) != 0)
            fprintf(file, "%s:%s\n", user->name, user->hash);
    }
    fprintf(file, "%s:%s\n", added->name, added->hash);
}

// For one user alone: of root's file that is who has its folder, as the service has that of its store. False: errno says why.
static bool take_after_folder(int descriptor, const char *path) {
    struct stat status;
    if (geteuid() != 0)
        return true;
    char *copy = must_have(strdup(path));
    bool taken = stat(dirname(copy), &status) == 0 && fchown(descriptor, status.st_uid, status.st_gid) == 0;
    free(copy);
    return taken;
}

// As the file is that it takes the place of. False: errno says why.
static bool take_after(int descriptor, const char *path) {
    struct stat status;
    if (stat(path, &status) != 0)
        return errno == ENOENT && take_after_folder(descriptor, path);
    return fchown(descriptor, status.st_uid, status.st_gid) == 0 &&
           fchmod(descriptor, status.st_mode & 07777) == 0;
}

// Closes the descriptor. False: errno says why.
static bool write_beside(int descriptor, const char *path, const struct user *users,
                         const struct user *added) {
    FILE *file = fdopen(descriptor, "w");
    if (file == NULL) {
        close(descriptor);
        return false;
    }
    write_users(file, users, added);
    bool written = fflush(file) == 0 && take_after(descriptor, path) && fsync(descriptor) == 0;
    int error = errno;
    if (fclose(file) == 0 && written)
        return true;
    errno = written ? errno : error;
    return false;
}

// Whole or not at all, and with the owner and the mode that it has: the service may be another user, and must be able to read it.
static char *replace_file(const char *path, const struct user *users, const struct user *added) {
    char *beside = text_format("%s.XXXXXX", path), *reason = NULL;
    int descriptor = mkostemp(beside, O_CLOEXEC);
    if (descriptor < 0 || !write_beside(descriptor, path, users, added) || rename(beside, path) != 0) {
        reason = text_format("%s cannot be written: %s", path, strerror(errno));
        if (descriptor >= 0)
            unlink(beside);
    }
    free(beside);
    return reason;
}

// Only one at a time, until the descriptor is closed: what another adds meanwhile would be lost. The file is replaced, so
// that its folder has the lock. -1: errno says why.
static int lock_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder =
        slash != NULL ? must_have(strndup(path, (size_t)(slash - path) + 1)) : must_have(strdup("."));
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(folder);
    if (descriptor < 0 || flock(descriptor, LOCK_EX) == 0)
        return descriptor;
    int error = errno;
    close(descriptor);
    errno = error;
    return -1;
}

static char *add_line(const char *path, const struct user *added) {
    struct user *users = NULL;
    if (!read_users(path, &users) && errno != ENOENT)
        return text_format("%s cannot be read: %s", path, strerror(errno));
    char *reason = replace_file(path, users, added);
    free_users(users);
    return reason;
}

static char *add(const char *path, const struct user *added) {
    if (!is_name(added->name))
        return text_format("the name '%s' is not 1 to %d letters, digits and ._@-", added->name,
                           LOGIN_USER_MAX);
    int lock = lock_folder(path);
    if (lock < 0)
        return text_format("%s cannot be written: %s", path, strerror(errno));
    char *reason = add_line(path, added);
    close(lock);
    return reason;
}

char *login_add_user(const char *path, const char *name, const char *password) {
    if (strlen(password) < LOGIN_PASSWORD_MIN)
        return text_format("the password is shorter than %d characters", LOGIN_PASSWORD_MIN);
    char *hash = hash_of(password);
    char *reason = hash != NULL ? add(path, &(struct user){.name = (char *)name, .hash = hash})
                                : text_format("the password cannot be hashed: %s", strerror(errno));
    free(hash);
    return reason;
}

static char *hash_of_token(const char *token) {
    unsigned char digest[DIGEST];
    char hex[2 * DIGEST + 1];
    int result = gnutls_hash_fast(GNUTLS_DIG_SHA256, token, strlen(token), digest);
    must_have(result == 0 ? digest : NULL); // it fails for want of memory only
    return text_format(TOKEN_MARK "%s", hex_write(digest, sizeof digest, hex));
}

static void make_token(char token[LOGIN_TOKEN_SIZE]) {
    uint8_t random[TOKEN_BYTES];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        must_have(NULL);
    hex_write(random, sizeof random, token);
}

char *login_add_token(const char *path, const char *name, char token[LOGIN_TOKEN_SIZE]) {
    make_token(token);
    char *hash = hash_of_token(token);
    char *reason = add(path, &(struct user){.name = (char *)name, .hash = hash, .token = true});
    free(hash);
    return reason;
}

// --- failures ---

static bool is_over(const struct failures *failures, int64_t now) {
    return failures->since == 0 || now - failures->since > MINUTE;
}

static void count_failure(struct failures *failures, int64_t now) {
    if (is_over(failures, now))
        *failures = (struct failures){.since = now};
    failures->count++;
}

// Who has an address of IPv6 has its whole network of 64 bits.
static size_t place_of(const struct login *login, const char *address) {
    struct in6_addr six;
    const void *key = address;
    size_t length = strlen(address);
    if (inet_pton(AF_INET6, address, &six) == 1 && !IN6_IS_ADDR_V4MAPPED(&six)) {
        key = &six;
        length = 8;
    }
    return limiter_hash(login->key, key, length) % FAILURE_PLACES;
}

static bool are_too_many(const struct failures *failures, unsigned most, int64_t now) {
    return !is_over(failures, now) && failures->count >= most;
}

static bool is_too_often(const struct login *login, const char *address, int64_t now) {
    return are_too_many(&login->places[place_of(login, address)], FAILURES_MAX, now) ||
           are_too_many(&login->all, FAILURES_ALL, now);
}

static void tell_failure(const char *address, const char *why, const char *name) {
    log_about(address, LOG_WARNING, "a login from %s failed: %s%s", address, why, name);
}

static void note_failure(struct login *login, const char *address, const char *why, const char *name,
                         int64_t now) {
    count_failure(&login->all, now);
    count_failure(&login->places[place_of(login, address)], now);
    tell_failure(address, why, name);
}

// name is what somebody gave as his: perhaps a password, which belongs in no log, so that only users are named.
static void note_wrong_password(struct login *login, const char *address, const char *name, int64_t now) {
    if (find_user(login, name) != NULL)
        note_failure(login, address, "wrong password of ", name, now);
    else
        note_failure(login, address, "no such user", "", now);
}

// --- sessions ---

// Compares all of it, so that the time does not tell how much was right.
static bool is_equal(const char *a, const char *b) {
    size_t length = strlen(a);
    if (strlen(b) != length)
        return false;
    volatile unsigned char differs = 0;
    for (size_t i = 0; i < length; i++)
        differs |= (unsigned char)(a[i] ^ b[i]);
    return differs == 0;
}

static struct session *find(struct login *login, const char *token, int64_t now) {
    struct session *session, *next;
    DL_FOREACH_SAFE(login->sessions, session, next) {
        if (now - session->used > (int64_t)LOGIN_SECONDS * 1000000)
            drop(login, session);
        else if (is_equal(session->token, token))
            return session;
    }
    return NULL;
}

static void begin(struct login *login, const char *token, const struct user *user, int64_t now) {
    struct session *session = must_have(calloc(1, sizeof *session));
    session->number = ++login->last_session;
    session->hash = must_have(strdup(user->hash));
    session->token = must_have(strdup(token));
    session->used = now;
    snprintf(session->name, sizeof session->name, "%s", user->name);
    if (login->session_count >= SESSIONS_MAX)
        drop(login, login->sessions->prev); // the tail
    DL_PREPEND(login->sessions, session);
    login->session_count++;
}

const char *login_user(struct login *login, const char *token, int64_t now) {
    struct session *session = token != NULL ? find(login, token, now) : NULL;
    if (session == NULL)
        return NULL;
    session->used = now;
    DL_DELETE(login->sessions, session);
    DL_PREPEND(login->sessions, session);
    return session->name;
}

uint64_t login_session(struct login *login, const char *token, int64_t now) {
    const struct session *session = token != NULL ? find(login, token, now) : NULL;
    return session != NULL ? session->number : 0;
}

bool login_holds(struct login *login, uint64_t number, int64_t now) {
    struct session *session;
    DL_SEARCH_SCALAR(login->sessions, session, number, number);
    if (session != NULL)
        session->used = now;
    return session != NULL;
}

void login_end(struct login *login, const char *token, int64_t now) {
    struct session *session = token != NULL ? find(login, token, now) : NULL;
    if (session != NULL)
        drop(login, session);
}

// --- checking ---

// Takes as long for a name that is not there.
static bool is_right(struct login *login, const char *name, const char *password) {
    static struct crypt_data data;
    const struct user *user;
    login_refresh(login);
    user = find_user(login, name);
    const struct user *any = user != NULL ? user : find_user(login, NULL);
    const char *hash = any != NULL ? crypt_rn(password, any->hash, &data, sizeof data) : NULL;
    return hash != NULL && user != NULL && *hash != '*' && is_equal(hash, user->hash);
}

static enum login_result check(struct login *login, const char *address, const char *name,
                               const char *password, int64_t now) {
    if (login->path == NULL || is_too_often(login, address, now))
        return login->path == NULL ? LOGIN_WRONG : LOGIN_TOO_OFTEN;
    if (is_name(name) && is_right(login, name, password))
        return LOGIN_DONE;
    note_wrong_password(login, address, name, now);
    return LOGIN_WRONG;
}

enum login_result login_begin(struct login *login, const char *address, const char *name,
                              const char *password, int64_t now, char *token) {
    enum login_result result = check(login, address, name, password, now);
    if (result != LOGIN_DONE)
        return result;
    make_token(token);
    begin(login, token, find_user(login, name), now);
    return LOGIN_DONE;
}

// --- Authorization: Basic and FlespiToken ---

static int digit_of(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c != '\0' ? strchr(digits, c) : NULL;
    return found != NULL ? (int)(found - digits) : -1;
}

static void decode_base64(const char *text, char *out) {
    unsigned bits = 0, count = 0;
    for (; digit_of(*text) >= 0; text++) {
        bits = bits << 6 | (unsigned)digit_of(*text);
        count += 6;
        if (count >= 8) {
            count -= 8;
            *out++ = (char)(bits >> count & 0xFF);
        }
    }
    *out = '\0';
}

// The line that the pair, in base64, is right for; NULL, and why.
static const struct user *check_pair(struct login *login, const char *address, const char *base64,
                                     int64_t now, enum login_result *result) {
    char pair[HEADER_MAX];
    decode_base64(base64, pair);
    char *password = strchr(pair, ':');
    if (password == NULL)
        return NULL;
    *password++ = '\0';
    *result = check(login, address, pair, password, now);
    return *result == LOGIN_DONE ? find_user(login, pair) : NULL;
}

static const struct user *find_token(const struct login *login, const char *token) {
    char *hash = hash_of_token(token);
    const struct user *user = login->users;
    while (user != NULL && !(user->token && is_equal(user->hash, hash)))
        user = user->next;
    free(hash);
    return user;
}

// The same for a token. Nobody guesses one, so that failures keep out no right one; and a program that goes on with one that
// was taken out keeps out no password, although it may have the address of many.
static const struct user *check_token(struct login *login, const char *address, const char *token,
                                      int64_t now, enum login_result *result) {
    struct failures *failures = &login->tokens[place_of(login, address)];
    if (login->path == NULL)
        return NULL;
    login_refresh(login);
    const struct user *user = find_token(login, token);
    if (user != NULL)
        return user;
    if (are_too_many(failures, FAILURES_MAX, now)) {
        *result = LOGIN_TOO_OFTEN;
        return NULL;
    }
    count_failure(failures, now);
    tell_failure(address, "no such token", "");
    return NULL;
}

const char *login_header(struct login *login, const char *address, const char *authorization, int64_t now,
                         enum login_result *result) {
    const char *name = login_user(login, authorization, now);
    const struct user *user = NULL;
    *result = name != NULL ? LOGIN_DONE : LOGIN_WRONG;
    if (name != NULL || strlen(authorization) >= HEADER_MAX)
        return name;
    if (strncmp(authorization, "Basic ", 6) == 0)
        user = check_pair(login, address, authorization + 6, now, result);
    else if (strncmp(authorization, LOGIN_TOKEN, strlen(LOGIN_TOKEN)) == 0)
        user = check_token(login, address, authorization + strlen(LOGIN_TOKEN), now, result);
    if (user == NULL)
        return NULL;
    *result = LOGIN_DONE;
    begin(login, authorization, user, now);
    return login_user(login, authorization, now);
}

// --- the whole ---

struct login *login_new(const char *path) {
    struct login *login = must_have(calloc(1, sizeof *login));
    login->path = path;
    if (getrandom(login->key, sizeof login->key, 0) != sizeof login->key)
        must_have(NULL);
    login_refresh(login);
    return login;
}

void login_free(struct login *login) {
    while (login->sessions != NULL)
        drop(login, login->sessions);
    free_users(login->users);
    free(login);
}

bool login_is_needed(const struct login *login) {
    return login->path != NULL;
}
