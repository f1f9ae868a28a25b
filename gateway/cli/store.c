// trackbus store: the messages that were set aside because the broker does not take them.
#include <errno.h>
#include <getopt.h> // optind
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gateway/base/clean.h"
#include "gateway/base/text.h"
#include "gateway/broker/store.h"
#include "gateway/broker/topic.h"
#include "gateway/cli/cli.h"
#include "gateway/config/config.h"

static const char help[] =
    "trackbus store [-c FILE] list|resend|drop [NUMBER|all]\n"
    "\n"
    "Shows and handles the messages that were set aside because the broker does not take them. A\n"
    "running gateway has the store open: stop it first. No password is needed; root acts as the owner of\n"
    "the store.\n"
    "\n"
    "  list               one line per message: number, time, bytes, topic, reason\n"
    "  list NUMBER        the payload of that message\n"
    "  resend NUMBER|all  sends that message, or all, when the gateway runs again\n"
    "  drop NUMBER|all    deletes that message, or all\n"
    "\n"
    "  -c, --config FILE   the configuration, for store.path; without it defaults are used\n"
    "\n"
    "Exit codes: 0 done, 1 there is no such message or the store cannot be used, 2 wrong usage.\n";

struct request {
    const char *file; // of the configuration, or NULL
    const char *action;
    int64_t number; // 0: all
};

struct listing {
    int64_t number; // the only one, or 0
    size_t count;
};

static void print_line(const struct store_aside *aside) {
    time_t seconds = (time_t)(aside->at / 1000000);
    struct tm parts;
    char when[32], topic[512], reason[256];
    gmtime_r(&seconds, &parts);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts);
    printf("%lld  %s  %zu  %s  %s\n", (long long)aside->number, when, aside->publish.length,
           clean_text(aside->publish.topic, strlen(aside->publish.topic), topic, sizeof topic),
           clean_text(aside->reason, strlen(aside->reason), reason, sizeof reason));
}

static void print_aside(void *context, const struct store_aside *aside) {
    struct listing *listing = context;
    if (listing->number != 0 && listing->number != aside->number)
        return;
    listing->count++;
    if (listing->number == 0) {
        print_line(aside);
        return;
    }
    clean_print_json(aside->publish.payload, aside->publish.length, stdout);
    putchar('\n');
}

static int end_with(const char *action, int64_t number, int count) {
    if (count > 0 && strcmp(action, "list") != 0)
        printf("%d message%s %s\n", count, TEXT_S(count),
               strcmp(action, "drop") == 0 ? "dropped" : "will be sent again");
    if (count < 0)
        cli_fault("store", "the store cannot be %s", strcmp(action, "list") == 0 ? "read" : "written");
    if (count == 0 && number != 0)
        cli_fault("store", "there is no message %lld", (long long)number);
    if (count == 0 && number == 0)
        puts("no messages are set aside");
    return count < 0 || (count == 0 && number != 0) ? 1 : 0;
}

static int act(struct store *store, const struct request *request) {
    struct listing listing = {.number = request->number};
    if (strcmp(request->action, "resend") == 0)
        return store_resend_aside(store, request->number);
    if (strcmp(request->action, "drop") == 0)
        return store_drop_aside(store, request->number);
    return store_each_aside(store, print_aside, &listing) ? (int)listing.count : -1;
}

// What root would write beside the store, the gateway's user could not. False: there is no store, which opening would
// make, or its owner cannot be acted as.
static bool act_as_owner(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) {
        cli_fault("store", "there is no store %s: %s", path, strerror(errno));
        return false;
    }
    if (geteuid() != 0 || status.st_uid == 0)
        return true;
    if (setgroups(0, NULL) == 0 && setgid(status.st_gid) == 0 && setuid(status.st_uid) == 0)
        return true;
    cli_fault("store", "cannot act as the owner of %s: %s", path, strerror(errno));
    return false;
}

static int use_store(const char *path, const struct request *request) {
    uv_loop_t loop;
    char *reason = NULL;
    if (!act_as_owner(path))
        return 1;
    uv_loop_init(&loop);
    struct store *store = store_open(&loop, path, &reason);
    int code = 1;
    if (store != NULL) {
        code = end_with(request->action, request->number, act(store, request));
        store_stop(store);
        uv_run(&loop, UV_RUN_DEFAULT);
        if (store_close(store) > 0)
            code = 1;
    } else {
        cli_fault("store", "%s", reason);
    }
    free(reason);
    uv_loop_close(&loop);
    return code;
}

static bool is_action(const char *text) {
    return strcmp(text, "list") == 0 || strcmp(text, "resend") == 0 || strcmp(text, "drop") == 0;
}

static bool read_number(const char *text, int64_t *number) {
    const char *end = "";
    return topic_read_id(text, number, &end) && *end == '\0' && *number != 0;
}

// -1 to go on, else the exit code. All are meant only where that is said: who forgets the number must not lose them.
static int read_arguments(int argc, char **argv, struct request *request) {
    if (optind == argc || !is_action(argv[optind]))
        return cli_usage_fault(argv[0], "which action? list, resend or drop");
    request->action = argv[optind];
    if (optind + 2 < argc)
        return cli_usage_fault(argv[0], "unexpected argument '%s'", argv[optind + 2]);
    const char *which = argv[optind + 1]; // or NULL
    if (which == NULL && strcmp(request->action, "list") != 0)
        return cli_usage_fault(argv[0], "which message? Its NUMBER, or all");
    if (which != NULL && strcmp(which, "all") != 0 && !read_number(which, &request->number))
        return cli_usage_fault(argv[0], "'%s' is not the number of a message, nor all", which);
    return -1;
}

int cli_store(int argc, char **argv) {
    struct request request = {0};
    int code = cli_read_config(argc, argv, help, &request.file);
    if (code < 0)
        code = read_arguments(argc, argv, &request);
    if (code >= 0)
        return code;
    struct config *config = cli_load_config(request.file, 0);
    if (config == NULL)
        return 1;
    code = use_store(config->store_path, &request);
    config_free(config);
    return code;
}
