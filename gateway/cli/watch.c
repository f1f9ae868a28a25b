// trackbus watch: what comes through the broker, live.
#include "gateway/watch/watch.h"

#include <getopt.h> // optind
#include <stdio.h>

#include "gateway/cli/cli.h"
#include "gateway/config/config.h"

static const char help[] =
    "trackbus watch [-c FILE] [DEVICE]\n"
    "\n"
    "Shows what comes through the broker, for one device if you give it: its ident, id or name. On a\n"
    "terminal: one row per device, newest first; arrow keys scroll, s sorts by the next column, ? shows\n"
    "all keys, q or Ctrl-C quits. Otherwise: one line per message, and one whenever a device connects or\n"
    "disconnects: time, ident, name, position, speed, battery, event.\n"
    "\n"
    "  -c, --config FILE   the gateway's configuration; only mqtt, messages, unknown_devices and log\n"
    "                      are used. Without it, defaults are used\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file.\n";

static int watch(const char *file, const char *device) {
    struct config *config = cli_load_config(file, FILES_OF_MQTT);
    if (config == NULL)
        return 1;
    int code = watch_run(config, device);
    config_free(config);
    return code;
}

int cli_watch(int argc, char **argv) {
    const char *file = NULL;
    int code = cli_read_config(argc, argv, help, &file);
    if (code >= 0)
        return code;
    if (optind + 1 < argc)
        return cli_usage_fault(argv[0], "one DEVICE, not %d; quotes keep a name with blanks together",
                               argc - optind);
    if (argv[optind] != NULL && *argv[optind] == '\0')
        return cli_usage_fault(argv[0], "DEVICE is empty");
    return watch(file, argv[optind]);
}
