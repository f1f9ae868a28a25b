// trackbus run: the gateway itself.
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>

#include "gateway/base/log.h"
#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/run/gateway.h"
#include "gateway/run/supervisor.h"
#include "gateway/web/beside.h"

static const char help[] =
    "trackbus run [-c FILE] [--workers N]\n"
    "\n"
    "Runs the gateway in the foreground; it logs to standard error. SIGINT or SIGTERM: stops\n"
    "accepting, hands over what is waiting, exits 0; a second one stops it at once. SIGHUP reads\n"
    "the configuration again, SIGUSR1 logs the counters.\n"
    "\n"
    "  -c, --config FILE   the configuration; without it, defaults are used\n"
    "  -w, --workers N     N processes that share the ports, to use more than one core. Each is an\n"
    "                      instance of its own, with -2, -3, ... appended to client_id and\n"
    "                      store.path. The first one takes commands in. Limits apply to each. A\n"
    "                      worker that dies is restarted. What earlier runs with more workers left\n"
    "                      behind is sent\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD,\n"
    "TRACKBUS_TOPIC_PREFIX and TRACKBUS_STORE override the file, and so do names made of any key:\n"
    "TRACKBUS_HOME_ASSISTANT__ENABLED is home_assistant.enabled.\n";

static bool read_workers(const char *text, unsigned *workers) {
    int end = 0;
    return sscanf(text, "%2u%n", workers, &end) == 1 && text[end] == '\0' && *workers >= 1 &&
           *workers <= SUPERVISOR_WORKERS_MAX;
}

// -1 to go on, else the exit code.
static int read_options(int argc, char **argv, const char **file, unsigned *workers) {
    static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
                                          {"workers", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:w:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option == 'c')
            *file = optarg;
        else if (option != 'w')
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        else if (!read_workers(optarg, workers))
            return cli_usage_fault(argv[0], "--workers is '%s', expected 1 to %d", optarg,
                                   SUPERVISOR_WORKERS_MAX);
    }
    return optind < argc ? cli_usage_fault(argv[0], "unexpected argument '%s'", argv[optind]) : -1;
}

static int run_with(struct config *config, unsigned workers, const struct gateway_guest *guest) {
    if (workers > 0)
        return supervisor_run(config, workers, guest);
    log_setup(config->log_level, config->log_format, 0);
    supervisor_warn_of_leftovers(config);
    return gateway_run(config, NULL, guest);
}

static int run(struct config *config, unsigned workers) {
    if (config->web.listen == NULL)
        return run_with(config, workers, NULL);
    if (!cli_may_serve(config, NULL))
        return 1;
    struct web_beside *beside = web_beside_new();
    const struct gateway_guest guest = {
        .context = beside, .start = web_beside_start, .told = web_beside_told, .stop = web_beside_stop};
    int code = run_with(config, workers, &guest);
    web_beside_free(beside);
    return code;
}

int cli_run(int argc, char **argv) {
    const char *file = NULL;
    unsigned workers = 0;
    int code = read_options(argc, argv, &file, &workers);
    if (code >= 0)
        return code;
    struct config *config = cli_load_config(file, FILES_ALL);
    if (config == NULL)
        return 1;
    code = run(config, workers);
    config_free(config);
    return code;
}
