// No script leaves a process, a file or a port behind, however it ends: leftovers tries them all, the quick start for real.
#include <criterion/criterion.h>
#include <stdlib.h>

Test(leftovers, no_script_leaves_any, .timeout = 300) {
    setenv("TRACKBUS_BUILD", TEST_BUILD, 1);
    cr_assert_eq(system("'" TEST_ROOT "/tests/leftovers'"), 0, "see above for what remains");
}
