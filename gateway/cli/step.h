// What `trackbus send` prints of a command's life: a line for each step, and what the device answered.
#pragma once

#include <jansson.h>

// step is the name of the step ("queued"), entry its log entry or the result on the response topic. Nothing in it
// reaches the terminal as it is.
void step_print(const char *step, const json_t *entry);
// The answer, a line; nothing when there is none. NULL will do.
void step_print_response(const json_t *response);
