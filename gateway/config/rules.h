// Rules for a configuration that a schema cannot say: what MQTT takes as text, and what does not go together.
#pragma once

#include "gateway/config/faults.h"
#include "gateway/config/settings.h"

// No control characters in what goes to the broker as text, nothing longer than it can be there.
void rules_check_texts(struct faults *faults, const struct config *config);

// No two channels with one id or at one address and port, and the page at none of theirs.
void rules_check_channels(struct faults *faults, const struct config *config);

// No two devices with one ident or id. The first `inner` of them stand in the configuration, the others in devices_file.
void rules_check_devices(struct faults *faults, const struct config *config,
                         const struct config_devices *devices, size_t inner);
