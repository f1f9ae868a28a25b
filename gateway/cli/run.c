// trackbus run and trackbus check.
#include <getopt.h>
#include <stdio.h>

#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/run/gateway.h"
#include "gateway/run/supervisor.h"

static const char run_help[] =
    "trackbus run [-c FILE] [--workers N]\n"
    "\n"
    "Runs the gateway in the foreground; it logs to standard error. SIGINT or SIGTERM: stops\n"
    "accepting, hands over what waits, exits 0; a second one stops it at once. SIGHUP reads\n"
    "devices_file again, SIGUSR1 logs the counters.\n"
    "\n"
    "  -c, --config FILE   the configuration; without it every default holds\n"
    "  -w, --workers N     N processes that share the ports, for more than one core: instances of\n"
    "                      their own, with -2, -3, ... behind client_id and store.path. The first\n"
    "                      takes commands in. Limits hold for each. One that dies is started again;\n"
    "                      what more workers have left behind in earlier runs is sent\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD,\n"
    "TRACKBUS_TOPIC_PREFIX and TRACKBUS_STORE override the file.\n";

static const char check_help[] =
    "trackbus check -c FILE\n"
    "\n"
    "Checks a configuration, with the environment that 'run' would use. Each fault is a line: its\n"
    "JSON path, what is there and what was expected.\n"
    "\n"
    "Exit codes: 0 no faults, 1 faults, 2 wrong usage.\n";

static void print_fault(void *context, const char *path, const char *problem) {
    fprintf(context, "%s: %s\n", path, problem);
}

// -1 to go on, else the exit code. workers is NULL where there are none.
static int read_options(int argc, char **argv, const char *help, const char **file, unsigned *workers) {
    static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
                                          {"workers", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option, end = 0;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:w:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option == 'c') {
            *file = optarg;
            continue;
        }
        if (option != 'w' || workers == NULL)
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        if (sscanf(optarg, "%2u%n", workers, &end) != 1 || optarg[end] != '\0' || *workers < 1 ||
            *workers > SUPERVISOR_WORKERS_MAX)
            return cli_usage_fault(argv[0], "--workers is '%s', expected 1 to %d", optarg,
                                   SUPERVISOR_WORKERS_MAX);
    }
    return optind < argc ? cli_usage_fault(argv[0], "'%s' is too much", argv[optind]) : -1;
}

int cli_run(int argc, char **argv) {
    const char *file = NULL;
    unsigned workers = 0;
    int code = read_options(argc, argv, run_help, &file, &workers);
    if (code >= 0)
        return code;
    struct config *config = config_load(file, print_fault, stderr);
    if (config == NULL)
        return 1;
    if (workers > 0) {
        code = supervisor_run(config, workers);
    } else {
        log_setup(config->log_level, config->log_format, 0);
        supervisor_warn_of_leftovers(config);
        code = gateway_run(config);
    }
    config_free(config);
    return code;
}

int cli_check(int argc, char **argv) {
    const char *file = NULL;
    int code = read_options(argc, argv, check_help, &file, NULL);
    if (code >= 0)
        return code;
    if (file == NULL)
        return cli_usage_fault(argv[0], "which configuration? -c is missing");
    struct config *config = config_load(file, print_fault, stdout);
    if (config != NULL)
        printf("%s is valid: %zu channels, %zu devices\n", file, config->channel_count,
               config->devices->count);
    code = config != NULL ? 0 : 1;
    config_free(config);
    return code;
}
