// Captures without what says whose they are: IMEIs, addresses, names.
#pragma once

#include "gateway/cli/capture_file.h"

// Puts a made-up IMEI in place of each: those of the devices, those that the codec finds in the bytes, and whatever else
// there looks like one; as text, as hexadecimal digits, packed two digits a byte, or as a number. Nothing changes its
// length, and a checksum that was right is right again. Addresses of devices, labels and the title go too; positions
// stay. NULL, or why it cannot be done, for the caller to free; the file is then not to be used.
char *anonymize(struct capture_file *file);
