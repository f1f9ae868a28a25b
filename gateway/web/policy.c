// What must hold before the page is served; see policy.h.
#include "gateway/web/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/base/address.h"
#include "gateway/base/text.h"
#include "gateway/web/certificate.h"
#include "gateway/web/http.h"
#include "gateway/web/login.h"

struct check {
    config_fault_fn *fault;
    void *context;
    unsigned faults;
};

// Takes problem over; NULL: there is none.
static void report(struct check *check, const char *path, char *problem) {
    if (problem == NULL)
        return;
    check->faults++;
    check->fault(check->context, path, problem);
    free(problem);
}

// Others than this machine reach it: they must log in, and nobody on the way may read that.
static char *exposure_of(const struct config *config, const char *listen) {
    if (config->web.users_file == NULL)
        return text_format(
            "is \"%s\", which others can reach, expected web.users_file, so that they must log "
            "in, or an address of this machine alone, such as 127.0.0.1:7780",
            listen);
    if (config->web.cert_file == NULL && !config->web.behind_proxy)
        return text_format("is \"%s\", which others can reach, expected web.cert_file and web.key_file for "
                           "TLS, or web.behind_proxy true when a proxy does it",
                           listen);
    return NULL;
}

static void check_address(struct check *check, const struct config *config, const char *listen,
                          char **in_use) {
    struct sockaddr_storage address = {0};
    bool taken = false;
    if (!address_parse(listen, &address)) {
        report(
            check, "$.web.listen",
            text_format("is \"%s\", expected HOST:PORT with a numeric host, such as 127.0.0.1:7780", listen));
        return;
    }
    if (!address_is_loopback(&address))
        report(check, "$.web.listen", exposure_of(config, listen));
    char *problem = http_try(listen, &taken);
    if (taken)
        *in_use = problem;
    else
        report(check, "$.web.listen", problem);
}

unsigned policy_check(const struct config *config, const char *listen, config_fault_fn *fault, void *context,
                      char **in_use) {
    struct check check = {.fault = fault, .context = context};
    *in_use = NULL;
    listen = listen != NULL ? listen : config->web.listen;
    if (config->web.users_file != NULL)
        report(&check, "$.web.users_file", login_check_file(config->web.users_file));
    if (config->web.cert_file != NULL)
        certificate_check(config->web.cert_file, config->web.key_file, fault, context, &check.faults);
    if (listen != NULL)
        check_address(&check, config, listen, in_use);
    return check.faults;
}
