// A protocol is one file, one line and its vectors: new_protocol adds one to a copy of the source and tries it.
#include <criterion/criterion.h>
#include <stdlib.h>

Test(new_protocol, needs_one_file_one_line_and_its_vectors, .timeout = 300) {
    cr_assert_eq(system("'" TEST_ROOT "/tests/new_protocol'"), 0, "see above for what failed");
}
