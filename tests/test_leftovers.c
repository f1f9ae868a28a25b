// No script leaves a process, a file or a port behind, however it ends: leftovers tries them all, the quick start for real.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "temporary.h"

Test(leftovers, no_script_leaves_any, .timeout = 300) {
    setenv("TRACKBUS_BUILD", TEST_BUILD, 1);
    cr_assert_eq(system("'" TEST_ROOT "/tests/leftovers'"), 0, "see above for what remains");
}

// --- ended while packages are looked for ---

static void stand_in(const char *folder, const char *tool, const char *script) {
    char path[TEMPORARY_MAX + 32], command[TEMPORARY_MAX + 48];
    snprintf(path, sizeof path, "%s/%s", folder, tool);
    FILE *file = fopen(path, "w");
    fprintf(file, "#!/bin/sh\n%s\n", script);
    cr_assert_eq(fclose(file), 0);
    snprintf(command, sizeof command, "chmod +x '%s'", path);
    cr_assert_eq(system(command), 0);
}

// The exit code, in a folder where no package manager is that could install anything, and for a user who is not root; 7 is
// that of the stand-in of Python, which comes after the packages. said: what is in all that it says, or NULL for nothing.
static int run_with(const char *dpkg_query, const char *command, const char *said) {
    char folder[TEMPORARY_MAX], line[512];
    make_temporary(folder, "leftovers");
    stand_in(folder, "dpkg-query", dpkg_query);
    stand_in(folder, "apt-get", "exit 6");
    stand_in(folder, "python3", "exit 7");
    stand_in(folder, "id", "echo 7700");
    snprintf(line, sizeof line, "PATH='%s':$PATH; cd '" TEST_ROOT "' && %s >'%s/said' 2>&1", folder, command,
             folder);
    int code = system(line);
    if (said != NULL)
        snprintf(line, sizeof line, "grep -q '%s' '%s/said'", said, folder);
    else
        snprintf(line, sizeof line, "! grep . '%s/said'", folder);
    cr_assert_eq(system(line), 0, "%s does not say %s", command, said != NULL ? said : "nothing");
    snprintf(line, sizeof line, "rm -r '%s'", folder);
    cr_assert_eq(system(line), 0);
    return WEXITSTATUS(code);
}

Test(leftovers, what_is_not_asked_to_the_end_is_not_missing) {
    cr_assert_eq(run_with("kill $$", "gateway/dependencies quickstart", NULL), 1);
}

// Where packages are none of Debian's, nobody can be asked for them.
Test(leftovers, packages_are_named_where_nobody_can_be_asked) {
    cr_assert_eq(run_with("exit 127", "gateway/dependencies quickstart", "These packages are missing"), 1);
}

// A shell forgets what comes to it alone while something runs that then ends well.
Test(leftovers, the_quick_start_ends_when_it_is_told_so_at_once) {
    cr_assert_eq(run_with("sleep 0.1; echo install ok installed",
                          "timeout --foreground --preserve-status -s INT 0.5 gateway/quickstart --once",
                          NULL),
                 130);
}
