//! Order of the hosts and addresses to try (RFC 5321 section 5.1). No resolver, no randomness of its own.

use std::net::IpAddr;

/// Maximum number of hosts of one attempt.
const MAX_HOSTS: usize = 10;
/// Maximum number of addresses of one host.
const MAX_ADDRESSES: usize = 4;

/// An MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MxRecord {
    /// The lowest is tried first.
    pub preference: u16,
    /// Name of the host; `None` for the root, which is no host.
    pub host: Option<String>,
}

/// Hosts that receive the mail of a domain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MailHosts {
    /// Hosts of MX records, in the order of attempts.
    Listed(Vec<String>),
    /// There is no MX record: the domain itself is the host.
    Domain,
    /// The domain accepts no mail (RFC 7505).
    NullMx,
}

/// Orders hosts by preference. Hosts of one preference are shuffled: `chance(n)` returns a random number below `n`; it is
/// never called with 0.
pub(crate) fn mail_hosts(mut records: Vec<MxRecord>, mut chance: impl FnMut(usize) -> usize) -> MailHosts {
    if records.is_empty() {
        return MailHosts::Domain;
    }
    for last in (1..records.len()).rev() {
        records.swap(last, chance(last + 1).min(last));
    }
    // Stable sort: the random order stays within a preference.
    records.sort_by_key(|record| record.preference);
    let mut hosts: Vec<String> = Vec::new();
    for host in records.into_iter().filter_map(|record| record.host) {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if !hosts.contains(&host) && hosts.len() < MAX_HOSTS {
            hosts.push(host);
        }
    }
    if hosts.is_empty() { MailHosts::NullMx } else { MailHosts::Listed(hosts) }
}

/// Alternates the families, IPv4 first: a host without a working IPv6 connection is common, the reverse is not.
pub(crate) fn addresses(found: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (four, six): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv4);
    let mut ordered: Vec<(usize, IpAddr)> = four.into_iter().enumerate().collect();
    ordered.extend(six.into_iter().enumerate());
    ordered.sort_by_key(|(position, _)| *position);
    ordered.into_iter().map(|(_, address)| address).take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(preference: u16, host: &str) -> MxRecord {
        MxRecord { preference, host: Some(host.to_owned()).filter(|host| host != ".") }
    }

    fn listed(records: &[MxRecord], drawn: usize) -> Vec<String> {
        match mail_hosts(records.to_vec(), |n| drawn % n) {
            MailHosts::Listed(hosts) => hosts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lower_preference_is_tried_first_whatever_is_drawn() {
        let records = [record(20, "c."), record(5, "A."), record(10, "b.")];
        for drawn in 0..7 {
            assert_eq!(listed(&records, drawn), ["a", "b", "c"]);
        }
    }

    #[test]
    fn equal_preferences_take_turns() {
        let records = [record(10, "a"), record(10, "b"), record(10, "c"), record(1, "first")];
        let mut seconds: Vec<String> = (0..24).map(|drawn| listed(&records, drawn)[1].clone()).collect();
        seconds.sort();
        seconds.dedup();
        assert_eq!(seconds, ["a", "b", "c"]);
    }

    #[test]
    fn root_alone_is_null_mx_and_no_record_is_the_domain() {
        assert_eq!(mail_hosts(vec![record(0, ".")], |_| 0), MailHosts::NullMx);
        assert_eq!(mail_hosts(Vec::new(), |_| 0), MailHosts::Domain);
        assert_eq!(listed(&[record(0, "."), record(10, "a")], 0), ["a"]);
    }

    #[test]
    fn families_alternate_up_to_the_maximum() {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let found = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"].map(parse);
        let expected = ["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"].map(parse);
        assert_eq!(addresses(found), expected);
        assert_eq!(addresses(found.into_iter().chain(expected)).len(), 4);
        assert_eq!(addresses([]), Vec::<IpAddr>::new());
    }

    proptest! {
        #[test]
        fn hosts_are_in_order_without_duplicates_and_bounded(
            records in prop::collection::vec((0..5_u16, "[a-f]{1,2}"), 1..40),
            draws in prop::collection::vec(any::<usize>(), 40),
        ) {
            let records: Vec<_> = records.iter().map(|(preference, host)| record(*preference, host)).collect();
            let mut draws = draws.into_iter();
            let MailHosts::Listed(hosts) = mail_hosts(records.clone(), |n| draws.next().unwrap_or(0) % n) else {
                panic!("no hosts");
            };
            let best = |host: &String| records.iter().filter(|r| r.host.as_ref() == Some(host)).map(|r| r.preference).min();
            let order: Vec<_> = hosts.iter().map(best).collect();
            prop_assert!(order.is_sorted() && order.iter().all(Option::is_some));
            let mut distinct: Vec<_> = records.iter().map(|r| r.host.clone()).collect();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(hosts.len(), distinct.len().min(MAX_HOSTS));
        }
    }
}
