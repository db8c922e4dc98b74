/* SPDX-License-Identifier: MIT */
/*
 * What domain.c has for its neighbours.
 */
#ifndef KARENA_DOMAIN_INTERNAL_H
#define KARENA_DOMAIN_INTERNAL_H

#include <stdbool.h>

#include <karena/domain.h>

/* Whether the domains' heap is the parent's. */
bool ka_domain_lost(void);

#endif /* KARENA_DOMAIN_INTERNAL_H */
