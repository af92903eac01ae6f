//! Metrics of a node. They contain no names of persons or mailboxes.

use std::sync::atomic::Ordering::Relaxed;

use twinbox_calls::LoadView;
use twinbox_clock::DurationHistogram;
use twinbox_disk::{Disk, IndexSpace};
use twinbox_enrollment::certificates;
use twinbox_health::Health;
use twinbox_media::{BOUNDS_US, Quality};
use twinbox_replication_peer::ComparisonCounts;

use crate::{
    Pages, alarms, mail,
    page::{Page, plain},
};

/// Metrics of the health checks.
fn render_health(page: &mut Page, health: &Health) {
    let mut histogram = |name: &str, help: &str, times: &DurationHistogram| {
        let times = times.view();
        page.histogram(name, help, times.bounds_us, &times.counts, times.sum_us);
    };
    histogram("twinbox_durable_write_seconds", "How long a probe's durable write took.", &health.writes);
    histogram(
        "twinbox_self_test_seconds",
        "The node's calls to itself: INVITE sent to a fifth of a second of tone heard.",
        &health.self_tests.time,
    );
    histogram("twinbox_event_loop_lag_seconds", "How late the event loop turned.", &health.heartbeat.lag);
    page.counter(
        "twinbox_self_tests_total",
        "The node's calls to itself.",
        [("passed", &health.self_tests.passed), ("failed", &health.self_tests.failed)]
            .map(|(outcome, count)| (format!("outcome=\"{outcome}\""), count.load(Relaxed) as f64)),
    );
    let hung = f64::from(u8::from(health.heartbeat.hung()));
    page.gauge("twinbox_event_loop_hung", "The event loop does not turn.", [plain(hung)]);
    page.gauge(
        "twinbox_cpu_ratio",
        "Processor in use, of what this process may use.",
        [("second", health.cpu_now()), ("minute", health.measured().map_or(0, |m| m.cpu_permille))]
            .map(|(over, share)| (format!("over=\"{over}\""), f64::from(share) / 1_000.0)),
    );
    let free = health.measured().map(|measured| measured.free_bytes as f64);
    page.gauge("twinbox_free_bytes", "Free on the data disk.", free.map(plain));
}

/// All metrics.
pub fn render(pages: &Pages) -> String {
    let info = pages.facts.show();
    let mut page = Page::default();
    page.gauge("twinbox_info", "Version of the running program.", [(format!("version=\"{}\"", info.version), 1.0)]);
    page.gauge("twinbox_uptime_seconds", "Since the process began.", [plain(info.uptime_ms as f64 / 1_000.0)]);
    page.gauge("twinbox_calls", "Calls in progress.", [plain(f64::from(info.calls))]);
    page.gauge("twinbox_calls_max", "Calls at once before 503.", [plain(f64::from(info.max_calls))]);
    page.counter(
        "twinbox_acknowledged_total",
        "Changes acknowledged, by how many disks have them.",
        [
            ("how=\"on-two\"".to_owned(), info.acknowledged_on_two as f64),
            ("how=\"alone\"".to_owned(), info.acknowledged_alone as f64),
        ],
    );
    page.gauge(
        "twinbox_service_ok",
        "Critical services of this node.",
        info.services.iter().map(|s| (format!("service=\"{}\"", s.name), f64::from(u8::from(s.ok)))),
    );
    page.counter(
        "twinbox_service_restarts_total",
        "Local restarts of critical services.",
        info.services.iter().map(|s| (format!("service=\"{}\"", s.name), f64::from(s.restarts))),
    );
    render_health(&mut page, &pages.health);
    let tls = &pages.config.cluster.tls;
    page.gauge(
        "twinbox_certificate_expires_seconds",
        "Until a certificate ends; the node's own is renewed at two thirds of its life.",
        [("node", tls.expires()), ("authority", tls.authority_expires())].map(|(which, end)| {
            (format!("certificate=\"{which}\""), certificates::left(end, tls.time()).as_secs_f64())
        }),
    );
    let now = i64::try_from(twinbox_clock::wall().0 / 1_000).unwrap_or(i64::MAX);
    let served = [
        ("mail.in", pages.config.mail.incoming.as_ref().and_then(|incoming| incoming.tls.as_ref())),
        ("links", pages.config.links.as_ref().and_then(|links| links.tls.as_ref())),
    ];
    page.gauge(
        "twinbox_listener_certificate_expires_seconds",
        "Until the certificate of a listener ends, negative afterwards.",
        served.into_iter().filter_map(|(listener, certificate)| {
            Some((format!("listener=\"{listener}\""), (certificate?.validity().1 - now) as f64))
        }),
    );
    alarms::render(&pages.alarms, &mut page);
    let holds = pages.mailstore.holds().ok().map(|holds| holds.in_force().count());
    mail::render(&pages.outbox, holds, pages.gateway.as_deref(), &mut page);
    page.counter(
        "twinbox_call_records_left_out_total",
        "Records of calls that came faster than the disk takes them.",
        [plain(pages.mailstore.call_records_left_out() as f64)],
    );
    page.counter(
        "twinbox_syncs_total",
        "Syncs of files by this process: each waits for the disk.",
        [plain(Disk::fsync_count() as f64)],
    );
    page.counter(
        "twinbox_sync_seconds_total",
        "Time of these syncs, added up over threads.",
        [plain(Disk::fsync_time().as_secs_f64())],
    );
    let purged = pages.mailstore.store().purge_counts();
    page.counter(
        "twinbox_purged_total",
        "Deleted records, files of audio, and their bytes that were removed from the disk.",
        [("records", &purged.records), ("files", &purged.blobs), ("bytes", &purged.bytes)]
            .map(|(what, count)| (format!("what=\"{what}\""), count.load(Relaxed) as f64)),
    );
    page.gauge(
        "twinbox_log_changes",
        "Changes in the log, for members that are away.",
        [plain(pages.mailstore.store().log_changes() as f64)],
    );
    if let Some(IndexSpace { file, rows, runs, .. }) = pages.mailstore.store().index_space() {
        page.gauge(
            "twinbox_index_bytes",
            "Length of the index's file, of the rows in it, and of the files of the log.",
            [("file", file), ("rows", rows), ("log", runs)]
                .map(|(what, bytes)| (format!("what=\"{what}\""), bytes as f64)),
        );
    }
    let counters = pages.peers.counters();
    page.counter(
        "twinbox_state_fills_total",
        "Copies of all records of another node, because no log reached this one.",
        [("ended", counters.state_fills), ("failed", counters.state_fills_failed)]
            .map(|(result, count)| (format!("result=\"{result}\""), count as f64)),
    );
    let view = pages.roles.watch().borrow().clone();
    page.gauge(
        "twinbox_quorum",
        "A majority of the voters is in reach.",
        [plain(f64::from(u8::from(view.quorum)))],
    );
    let publisher = view.publisher.as_ref() == Some(&pages.config.name);
    page.gauge("twinbox_publisher", "This node is the publisher.", [plain(f64::from(u8::from(publisher)))]);
    page.gauge(
        "twinbox_duty_held",
        "Duties whose lease this node has now.",
        view.duties.iter().map(|d| {
            let held = pages.roles.gate(d.duty).holding().borrow().is_some();
            (format!("duty=\"{}\"", d.duty), f64::from(u8::from(held)))
        }),
    );
    page.gauge(
        "twinbox_behind_changes",
        "Changes that a peer is known to have and that are not here; above 1000: far behind.",
        [plain(pages.peers.behind() as f64)],
    );
    let lease = pages.config.cluster.timing.agreed(&pages.roles.agreed()).lease;
    page.gauge("twinbox_lease_seconds", "How long a lease runs.", [plain(lease.as_secs_f64())]);
    page.gauge(
        "twinbox_lease_longest_gap_seconds",
        "In the last 15 minutes: from a granted keep-alive's sending to the next one's answer; less than a lease.",
        pages.roles.longest_gap().map(|gap| plain(gap.as_secs_f64())),
    );
    page.counter(
        "twinbox_sip_probes_total",
        "Rounds of asking a node that is not heard at its SIP addresses, by whether it answered.",
        pages
            .probe_counts
            .counts()
            .into_iter()
            .map(|(node, answer, count)| (format!("node=\"{node}\",answer=\"{answer}\""), count as f64)),
    );
    let peers = pages.peers.status();
    let of_peer = |peer: &twinbox_ids::NodeName| format!("peer=\"{peer}\"");
    page.gauge(
        "twinbox_peer_counts",
        "The peer answers in time: writes wait for it.",
        peers.iter().map(|p| (of_peer(&p.name), f64::from(u8::from(p.counts)))),
    );
    page.gauge(
        "twinbox_peer_lag_changes",
        "Changes that the peer has not confirmed.",
        peers.iter().map(|p| (of_peer(&p.name), p.lag_changes as f64)),
    );
    comparisons(&mut page, &pages.peers.comparison_counts());
    if let Some(calls) = pages.calls.running() {
        let stats = calls.stats();
        page.counter(
            "twinbox_sip_total",
            "What happened at the SIP server.",
            stats.counters.iter().map(|(name, count)| (format!("what=\"{name}\""), *count as f64)),
        );
        admission(&mut page, &stats.overload);
        for (name, help, times) in [
            ("twinbox_answer_seconds", "INVITE received to 200 sent.", &stats.answer_time),
            ("twinbox_bye_seconds", "BYE received to its answer sent.", &stats.bye_time),
        ] {
            page.histogram(name, help, times.bounds_us, &times.counts, times.sum_us);
        }
    }
    page.gauge(
        "twinbox_media_still_seconds",
        "How long the stillest media thread has not turned; /livez says 503 above 5.",
        [plain(pages.media.stalled_for().as_secs_f64())],
    );
    let media = pages.media.stats();
    page.counter(
        "twinbox_rtp_packets_total",
        "RTP packets.",
        [
            ("direction=\"in\"".to_owned(), media.received as f64),
            ("direction=\"out\"".to_owned(), media.sent as f64),
        ],
    );
    page.counter(
        "twinbox_rtp_dropped_total",
        "RTP packets thrown away, by cause.",
        [
            ("cause=\"stranger\"".to_owned(), media.dropped.strangers as f64),
            ("cause=\"malformed\"".to_owned(), media.dropped.malformed as f64),
            ("cause=\"codec\"".to_owned(), media.dropped.codec as f64),
        ],
    );
    let late = &media.lateness;
    let help = "Time from the reception of audio packets to their handling, beyond the planned time.";
    page.histogram("twinbox_rtp_lateness_seconds", help, &BOUNDS_US, &late.buckets, late.sum_us);
    quality(&mut page, &media.quality);
    page.into_text()
}

/// Metrics of the comparison of stores.
fn comparisons(page: &mut Page, counts: &ComparisonCounts) {
    let of = |result: &str, count: u64| (format!("result=\"{result}\""), count as f64);
    page.counter(
        "twinbox_comparisons_total",
        "Comparisons of this node's store with that of another, by whether they were completed.",
        [of("completed", counts.completed), of("failed", counts.failed)],
    );
    page.counter(
        "twinbox_comparison_differences_total",
        "Records and recordings that one node lacked, by whether they were copied from the other.",
        [
            of("repaired", counts.repaired.min(counts.differences)),
            of("left", counts.differences.saturating_sub(counts.repaired)),
        ],
    );
    page.counter(
        "twinbox_comparison_seconds_total",
        "Time that comparisons took.",
        [plain(counts.took_ms as f64 / 1_000.0)],
    );
}

/// Metrics of the overload control.
fn admission(page: &mut Page, overload: &LoadView) {
    page.gauge(
        "twinbox_admission_calls_per_second",
        "New calls a second that the overload control admits.",
        [plain(overload.limit)],
    );
    page.gauge(
        "twinbox_admission_closed",
        "1 while no new call is admitted.",
        [plain(f64::from(u8::from(overload.closed)))],
    );
    page.gauge(
        "twinbox_admission_pressure",
        "How near each signal is to its target: 1 is the target.",
        overload.pressure.iter().map(|(signal, value)| (format!("signal=\"{}\"", signal.word()), *value)),
    );
}

/// Metrics from RTCP reports.
fn quality(page: &mut Page, quality: &Quality) {
    let Quality { inbound, outbound, round_trip, .. } = quality;
    page.counter(
        "twinbox_rtcp_packets_total",
        "RTCP packets; refused are those that are malformed or not of the call's peer.",
        [
            ("direction=\"out\"".to_owned(), quality.reports_sent as f64),
            ("direction=\"in\"".to_owned(), quality.reports_received as f64),
            ("direction=\"refused\"".to_owned(), quality.reports_refused as f64),
        ],
    );
    let both = |inbound: u64, outbound: u64| {
        [("stream=\"in\"".to_owned(), inbound as f64), ("stream=\"out\"".to_owned(), outbound as f64)]
    };
    page.counter(
        "twinbox_rtcp_expected_packets_total",
        "RTP packets that reports are about: of streams in as measured here, of streams out as the peers report.",
        both(inbound.expected, outbound.expected),
    );
    page.counter(
        "twinbox_rtcp_lost_packets_total",
        "RTP packets of those that did not arrive.",
        both(inbound.lost, outbound.lost),
    );
    for (name, help, times) in [
        ("twinbox_rtcp_jitter_in_seconds", "Jitter of streams in, a value for each report.", &inbound.jitter),
        ("twinbox_rtcp_jitter_out_seconds", "Jitter of streams out, as the peers report it.", &outbound.jitter),
        ("twinbox_rtcp_round_trip_seconds", "Round trips to the peers, by their reports.", round_trip),
    ] {
        page.histogram(name, help, &BOUNDS_US, &times.buckets, times.sum_us);
    }
}
