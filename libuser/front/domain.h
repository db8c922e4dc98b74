/* SPDX-License-Identifier: MIT */
/*
 * Functions of domain.c for the other files of this folder.
 */
#ifndef KARENA_DOMAIN_INTERNAL_H
#define KARENA_DOMAIN_INTERNAL_H

#include <stdbool.h>

#include <karena/domain.h>

/* True if the heap of the domains is the parent's. */
bool ka_domain_lost(void);

#endif /* KARENA_DOMAIN_INTERNAL_H */
