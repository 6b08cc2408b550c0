// SPDX-License-Identifier: GPL-2.0-only
/*
 * agentcg_net: what the sockets of one cgroup, and of all below it, may send: nothing but over loopback, or so many
 * bytes a second.
 *
 * The programs are attached to the cgroup of a call that is limited, and to no other: packets of everybody else do not
 * pass here. What they need to know is in cgroup storage: it is that of the cgroup to which they are attached, however
 * deep below it the socket was made, and the kernel makes it when they are attached and frees it with the cgroup. They
 * need nobody: not the process that loaded them, nor a pin.
 *
 *	hook			rate = 0			otherwise
 *	connect4, connect6	EPERM, unless to loopback	passes
 *	sendmsg4, sendmsg6	EPERM, unless to loopback	passes
 *	egress			EPERM, unless over loopback	counted, given its time, dropped above the rate
 *	ingress			dropped, unless over loopback	counted
 *
 * The first four give a program its error at once instead of a time-out; egress is there for all that has no such hook:
 * raw and ping sockets, and connections that are older than the limit.
 *
 * The rate. free_ns is the time at which all that was sent so far would be gone at the rate. A packet may go at
 * free_ns, or now if that is past, and moves free_ns on by its own length. One that would have to wait for longer than
 * BURST_NS is dropped, in the way in which a full queue does it (NET_XMIT_DROP): TCP keeps such a packet, slows down and
 * tries again. All others pass at once, with the time at which they may go in skb->tstamp, the earliest departure time.
 * Where the device has the queueing discipline fq, they wait there until then, and TCP sends no more meanwhile (it keeps
 * its queues below itself small), so that nothing is dropped. All others send them at once: what BURST_NS holds at the
 * speed of the device, and at the rate on average.
 *
 * A worked example. 1 MiB/s, a packet of 64 KiB (TCP hands over large ones): it moves free_ns on by 62.5 ms. The first
 * goes now, the second 62.5 ms after it, and so on. With fq, that is when they go. Without, five are gone at once, the
 * sixth would have to wait for 312 ms and is dropped. As soon as nothing is under way any more, TCP tries again 200 ms
 * later, the least of its time-outs (TCP_RTO_MIN); by then there is room for three more. So BURST_NS has to be longer
 * than that: with 100 ms, a stream over a fast link came to half of its rate.
 *
 * Known limits:
 * - A socket belongs to the cgroup in which it was made. One that a call inherits or is passed is not limited; one that
 *   it passes on still is.
 * - Packet sockets (CAP_NET_RAW) and what is not IP (AF_VSOCK, for one) are below or beside these hooks.
 * - Whoever may be reached over loopback may use the network: a proxy, a resolver.
 * - An address of the host's own that is not in 127.0.0.0/8 is refused, though its packets would go over loopback.
 * - Only what is sent has a rate. A large packet counts as one, with one header, before the device cuts it.
 * - The sockets of a call share its rate as they come, without any fairness.
 */
#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "agentcg_net.h"

char _license[] SEC("license") = "GPL";

#define NSEC_PER_SEC 1000000000ULL
#define BURST_NS (300 * 1000000ULL)
#define LOOPBACK_IFINDEX 1 /* In every network namespace: include/net/flow.h. */

/* What the kernel does with a packet; of the other hooks, 0 and 1 mean the same: include/linux/bpf-cgroup.h. */
enum { REFUSE = 0, PASS = 1, DROP_CONGESTED = 2 };

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct agentcg_net_limit);
} net_limits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct agentcg_net_counters);
} net_counters SEC(".maps");

/* Atomic, because an interrupt may come in between. */
#define count(member, by) \
	__sync_fetch_and_add(&((struct agentcg_net_counters *)bpf_get_local_storage(&net_counters, 0))->member, by)

static __always_inline struct agentcg_net_limit *own_limit(void)
{
	return bpf_get_local_storage(&net_limits, 0);
}

/* Packets */

/* Give a packet the time at which it may go. False if that is too late. */
static __always_inline bool schedule(struct agentcg_net_limit *limit, struct __sk_buff *skb)
{
	__u64 duration = skb->len * NSEC_PER_SEC / limit->rate;
	__u64 now = bpf_ktime_get_ns();
	__u64 departure;
	bool timely;

	bpf_spin_lock(&limit->lock);
	departure = limit->free_ns > now ? limit->free_ns : now;
	timely = departure - now <= BURST_NS;
	if (timely)
		limit->free_ns = departure + duration;
	bpf_spin_unlock(&limit->lock);
	if (timely && skb->tstamp < departure)
		skb->tstamp = departure;
	return timely;
}

SEC("cgroup_skb/egress")
int net_egress(struct __sk_buff *skb)
{
	struct agentcg_net_limit *limit = own_limit();

	if (skb->ifindex == LOOPBACK_IFINDEX)
		return PASS;
	if (!limit->rate) {
		count(refused, 1);
		return REFUSE;
	}
	if (!schedule(limit, skb)) {
		count(dropped_packets, 1);
		return DROP_CONGESTED;
	}
	count(sent_bytes, skb->len);
	return PASS;
}

SEC("cgroup_skb/ingress")
int net_ingress(struct __sk_buff *skb)
{
	if (skb->ifindex == LOOPBACK_IFINDEX)
		return PASS;
	if (!own_limit()->rate) {
		count(dropped_packets, 1);
		return REFUSE;
	}
	count(received_bytes, skb->len);
	return PASS;
}

/* Addresses, in network byte order */

/* The kernel takes the unspecified address for that of loopback. */
static __always_inline bool is_loopback4(__u32 address)
{
	return !address || bpf_ntohl(address) >> 24 == 127;
}

static __always_inline bool is_loopback6(const struct bpf_sock_addr *to)
{
	__u32 second = to->user_ip6[1], third = to->user_ip6[2], last = to->user_ip6[3];

	if (to->user_ip6[0] || second)
		return false;
	if (third == bpf_htonl(0xffff)) /* An IPv4 address. */
		return is_loopback4(last);
	return !third && (!last || last == bpf_htonl(1));
}

static __always_inline int admit(bool loopback)
{
	if (loopback || own_limit()->rate)
		return PASS;
	count(refused, 1);
	return REFUSE;
}

SEC("cgroup/connect4")
int net_connect4(struct bpf_sock_addr *to)
{
	return admit(is_loopback4(to->user_ip4));
}

SEC("cgroup/connect6")
int net_connect6(struct bpf_sock_addr *to)
{
	return admit(is_loopback6(to));
}

SEC("cgroup/sendmsg4")
int net_sendmsg4(struct bpf_sock_addr *to)
{
	return admit(is_loopback4(to->user_ip4));
}

SEC("cgroup/sendmsg6")
int net_sendmsg6(struct bpf_sock_addr *to)
{
	return admit(is_loopback6(to));
}
