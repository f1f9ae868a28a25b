// The metrics of all gateways in Prometheus' text format (0.0.4).
#pragma once

#include "gateway/web/gateways.h"
#include "gateway/web/text_out.h"

void prometheus_write(const struct gateways *gateways, struct text_out *out);
