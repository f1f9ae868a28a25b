#include "gateway/cli.h"

int cli_run(int argc, char **argv) {
    return cli_usage_fault(argv[0], "soon");
}

int cli_check(int argc, char **argv) {
    return cli_usage_fault(argv[0], "soon");
}
