// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Tells a kernel whose virtio_mmio was built without command-line devices (Debian's) about the devices that
 * Firecracker and QEMU name there: virtio_mmio.device=<size>@<address>:<interrupt>[:<id>].
 * Loaded with those words as its parameters, before virtio_mmio.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/platform_device.h>

static int next_id;

static int add_device(const char *text, const struct kernel_param *param)
{
	unsigned long long size, address;
	unsigned int irq;
	char *rest;
	int given = 0, id = next_id;
	struct resource resources[2];
	struct platform_device *device;

	size = memparse(text, &rest);
	if (sscanf(rest, "@%lli:%u%n:%d", &address, &irq, &given, &id) < 2 || !given || !size)
		return -EINVAL;
	next_id = id + 1;
	resources[0] = (struct resource)DEFINE_RES_MEM(address, size);
	resources[1] = (struct resource)DEFINE_RES_IRQ(irq);
	device = platform_device_register_resndata(NULL, "virtio-mmio", id, resources, 2, NULL, 0);
	return PTR_ERR_OR_ZERO(device);
}

static const struct kernel_param_ops device_ops = { .set = add_device };
module_param_cb(device, &device_ops, NULL, 0);
MODULE_PARM_DESC(device, "<size>@<address>:<interrupt>[:<id>], as often as there are devices");

static int __init start(void)
{
	return 0;
}
module_init(start);

MODULE_DESCRIPTION("virtio-mmio devices named on the kernel command line");
MODULE_LICENSE("Dual MIT/GPL");
