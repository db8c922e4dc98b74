/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mappings of heaps, snapshots and shares, and the faults in them.
 */
#ifndef _KARENA_MAP_H
#define _KARENA_MAP_H

#include <linux/mm.h>

#include "heap.h"

/* fault.c */
vm_fault_t karena_fault(struct vm_fault *vmf);
vm_fault_t karena_page_mkwrite(struct vm_fault *vmf);
vm_fault_t karena_huge_fault(struct vm_fault *vmf);

/* map.c */
struct karena_heap *karena_map_clone(struct karena_heap *heap, struct mm_struct *mm);
int karena_mmap(struct file *file, struct vm_area_struct *vma);
int karena_mmap_snapshot(struct file *file, struct vm_area_struct *vma);
void karena_map_alias(struct karena_heap *heap, struct vm_area_struct *vma);

/* snapshot.c */
struct file *karena_snapshot_open(struct karena_heap *heap,
				  struct karena_snapshot *call);
struct karena_heap *karena_snapshot_find(const struct karena_snapshot *call);

/* share.c */
struct file *karena_share_open(struct karena_heap *heap,
			       const struct karena_share *call);

#endif /* _KARENA_MAP_H */
