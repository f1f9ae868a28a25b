// What the files of the rig share, and tests do not need.
#pragma once

#include "tests/e2e/rig.h"

void rig_client_free(struct rig_client *client);
void rig_client_show(struct rig_client *client); // what it received, on standard error
