// The certificate of the page and its private key, as files.
#pragma once

#include "gateway/config/config.h"

// Reports what is wrong with them and adds to *faults: that they cannot be read, are no PEM, or do not go together.
void certificate_check(const char *cert_file, const char *key_file, config_fault_fn *fault, void *context,
                       unsigned *faults);

// The whole file as text, for the caller to free; NULL when it cannot be read, and errno says why.
char *certificate_read(const char *path);
