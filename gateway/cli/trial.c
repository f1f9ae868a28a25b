// Trying what `run` will need; see trial.h.
#include "gateway/cli/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/address.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/config/faults.h"

const char *trial_user(void) {
    static char text[64];
    const struct passwd *user = getpwuid(geteuid());
    if (user != NULL)
        snprintf(text, sizeof text, "%s", user->pw_name);
    else
        snprintf(text, sizeof text, "%u", (unsigned)geteuid());
    return text;
}

// Some folders say that one may write in them, and take no file; a name may be too long for what is written beside the
// store. 0, or an error number.
static int try_beside(const char *path) {
    char *name = text_format("%s-written", path); // as long as the longest, -reserve
    int file = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int error = file < 0 && errno != EEXIST ? errno : 0;
    if ((error == ENOSPC || error == EDQUOT) && access(path, F_OK) == 0)
        error = 0; // a store that is there needs no room
    if (file >= 0) {
        close(file);
        unlink(name);
    }
    free(name);
    return error;
}

static void try_store(struct faults *faults, const char *path) {
    struct stat status;
    char *copy = must_have(strdup(path));
    const char *folder = dirname(copy);
    int error;
    if (access(folder, F_OK) != 0 && errno == ENOENT)
        faults_add(faults, "$.store.path", "is \"%s\", but there is no folder \"%s\"", path, folder);
    else if (access(folder, W_OK | X_OK) != 0)
        faults_add(faults, "$.store.path",
                   "is \"%s\", and the user %s may not write in the folder \"%s\": %s", path, trial_user(),
                   folder, strerror(errno));
    else if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        faults_add(faults, "$.store.path", "is \"%s\", which is no file", path);
    else if (access(path, R_OK | W_OK) != 0 && errno != ENOENT)
        faults_add(faults, "$.store.path", "is \"%s\", which the user %s may not write: %s", path,
                   trial_user(), strerror(errno));
    else if ((error = path[strlen(path) - 1] == '/' ? EISDIR : try_beside(path)) != 0)
        faults_add(faults, "$.store.path", "is \"%s\", where the user %s cannot write: %s", path,
                   trial_user(), strerror(error));
    free(copy);
}

// 0, or an error number.
static int try_bind(const struct sockaddr_storage *address, int type) {
    const int on = 1;
    socklen_t size =
        address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int handle = socket(address->ss_family, type | SOCK_CLOEXEC, 0);
    if (handle < 0)
        return errno;
    if (type == SOCK_STREAM)
        setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    int error = bind(handle, (const struct sockaddr *)address, size) == 0 ? 0 : errno;
    close(handle);
    return error;
}

static void try_address(struct faults *faults, struct faults *warnings, size_t index, int type,
                        const struct sockaddr_storage *address) {
    char path[48], text[ADDRESS_TEXT_MAX];
    int error = try_bind(address, type);
    snprintf(path, sizeof path, "$.channels[%zu].%s", index, type == SOCK_STREAM ? "tcp" : "udp");
    address_write((const struct sockaddr *)address, text);
    if (error == EADDRINUSE)
        faults_add(warnings, path, "\"%s\" is in use, perhaps by the gateway itself", text);
    else if (error != 0)
        faults_add(faults, path, "is \"%s\", where the user %s cannot listen: %s", text, trial_user(),
                   strerror(error));
}

unsigned trial_run(const struct config *config, config_fault_fn *fault, config_fault_fn *warning,
                   void *context) {
    struct faults faults = {.fault = fault, .context = context};
    struct faults warnings = {.fault = warning, .context = context};
    try_store(&faults, config->store_path);
    for (size_t i = 0; i < config->channel_count; i++) {
        const struct config_channel *channel = &config->channels[i];
        if (channel->has_tcp)
            try_address(&faults, &warnings, i, SOCK_STREAM, &channel->tcp);
        if (channel->has_udp)
            try_address(&faults, &warnings, i, SOCK_DGRAM, &channel->udp);
    }
    return faults.count;
}
