//! Order of SRV records (RFC 2782): lowest priority first; within a priority random, in proportion to the weights.

/// Content of an SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvTarget {
    /// Priority; the lowest is tried first.
    pub priority: u16,
    /// Share among the records of one priority.
    pub weight: u16,
    /// Port of the service.
    pub port: u16,
    /// Name of the host.
    pub host: String,
}

/// Sorts records into the order of attempts. `chance(n)` returns a random number below `n`; it is never called with
/// 0.
pub fn in_order(mut services: Vec<SrvTarget>, mut chance: impl FnMut(u32) -> u32) -> Vec<SrvTarget> {
    // Records without weight first, so that they have a small chance, as RFC 2782 specifies.
    services.sort_by_key(|s| (s.priority, s.weight));
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let priority = first.priority;
        let equals = services.iter().take_while(|s| s.priority == priority).count();
        let total: u32 = services.iter().take(equals).map(|s| u32::from(s.weight)).sum();
        let drawn = chance(total.saturating_add(1));
        let mut sum = 0;
        let chosen = services.iter().take(equals).position(|s| {
            sum += u32::from(s.weight);
            sum >= drawn
        });
        ordered.push(services.remove(chosen.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, host: &str) -> SrvTarget {
        SrvTarget { priority, weight, port: 5060, host: host.to_owned() }
    }

    fn hosts(services: Vec<SrvTarget>) -> Vec<String> {
        services.into_iter().map(|s| s.host).collect()
    }

    #[test]
    fn a_lower_priority_is_always_tried_first() {
        let services = vec![service(20, 9, "c"), service(10, 0, "a"), service(15, 65_535, "b")];
        for drawn in [0, 1, 9, 70_000] {
            assert_eq!(hosts(in_order(services.clone(), |n| drawn % n)), ["a", "b", "c"]);
        }
    }

    #[test]
    fn weight_is_the_share_within_one_priority() {
        let services = || vec![service(10, 1, "small"), service(10, 3, "big")];
        let first = |drawn: u32| hosts(in_order(services(), |n| drawn % n)).remove(0);
        let firsts: Vec<String> = (0..5).map(first).collect();
        assert_eq!(firsts, ["small", "small", "big", "big", "big"]);
        // Without weights no record is always preferred, and none is lost.
        let equal = vec![service(10, 0, "a"), service(10, 0, "b")];
        assert_eq!(in_order(equal, |_| 0).len(), 2);
    }

    #[test]
    fn shares_match_the_weights_over_many_calls() {
        let mut seed = 7_u64;
        let mut chance = |n: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % u64::from(n)) as u32
        };
        let services = vec![service(1, 50, "a"), service(1, 50, "b")];
        let firsts = (0..1000).filter(|_| in_order(services.clone(), &mut chance)[0].host == "a").count();
        assert!((400..600).contains(&firsts), "{firsts} of 1000");
    }
}
