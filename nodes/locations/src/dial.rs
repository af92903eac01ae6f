//! Numbers that lead to locations, and back.

use std::cmp::Reverse;

use twinbox_mail::Address;

use crate::Location;

/// Maximum digits of a dialled number, as of a mailbox number.
const MOST_DIGITS: usize = 32;

/// The location that a dialled number leads to, and the number of the mailbox there: the longest dial id counts. Disabled
/// locations are found too.
pub fn dialled<'a, 'b>(locations: &'a [Location], digits: &'b str) -> Option<(&'a Location, &'b str)> {
    let behind = |location: &'a Location| {
        let number = digits.strip_prefix(location.dial_id.as_str())?;
        (!number.is_empty() && !location.dial_id.is_empty()).then_some((location, number))
    };
    locations
        .iter()
        .filter_map(behind)
        .max_by_key(|(location, _)| (location.dial_id.len(), Reverse((location.created, location.id))))
}

/// The number by which the sender of a mail is dialled here, if a location has its domain and the address is a number. None
/// if that number leads elsewhere: of the dial ids 7 and 71, 71001 is no number of a mailbox 1001 behind 7.
pub fn number_of_sender(locations: &[Location], sender: &Address) -> Option<String> {
    let local = sender.local();
    let number = local.strip_prefix('+').unwrap_or(local);
    let location = locations
        .iter()
        .filter(|location| location.enabled && location.domain == sender.domain())
        .min_by_key(|location| (location.created, location.id))?;
    let fits = location.dial_id.len().saturating_add(number.len()) <= MOST_DIGITS;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let digits = (fits && is_number).then(|| format!("{}{number}", location.dial_id))?;
    let leads_back =
        dialled(locations, &digits).is_some_and(|(to, behind)| to.id == location.id && behind == number);
    leads_back.then_some(digits)
}

#[cfg(test)]
mod tests {
    use twinbox_ids::{LocationId, Timestamp};

    use super::*;
    use crate::AudioForm;

    fn location(id: u128, dial_id: &str, domain: &str, created: u64) -> Location {
        Location {
            id: LocationId(id),
            name: format!("l{id}"),
            dial_id: dial_id.to_owned(),
            domain: domain.to_owned(),
            audio: AudioForm::Vpim,
            enabled: id != 4,
            created: Timestamp(created),
        }
    }

    fn locations() -> [Location; 5] {
        [
            location(1, "7", "seven.example", 5),
            location(2, "71", "later.example", 9),
            location(3, "71", "earlier.example", 8),
            location(4, "8", "off.example", 1),
            location(5, "9", "seven.example", 6),
        ]
    }

    #[test]
    fn longest_dial_id_counts_and_of_equal_ones_the_earlier() {
        for (digits, expected) in [
            ("71", Some((1, "1"))),
            ("711001", Some((3, "1001"))),
            ("721001", Some((1, "21001"))),
            ("8100", Some((4, "100"))),
            ("7", None),
            ("1001", None),
            ("", None),
        ] {
            let locations = locations();
            let found = dialled(&locations, digits).map(|(location, number)| (location.id.0, number));
            assert_eq!(found, expected, "{digits}");
        }
    }

    #[test]
    fn sender_at_a_location_has_its_dial_id_before_the_number() {
        for (sender, expected) in [
            ("2001@seven.example", Some("72001")),
            // That would be mailbox 001 behind 71.
            ("1001@seven.example", None),
            ("+4930123@Earlier.example", Some("714930123")),
            ("1001@off.example", None),
            ("1001@sub.seven.example", None),
            ("anna@seven.example", None),
            ("10-01@seven.example", None),
            ("+@seven.example", None),
            ("12345678901234567890123456789012@seven.example", None),
        ] {
            let address = Address::parse(sender).expect(sender);
            assert_eq!(number_of_sender(&locations(), &address).as_deref(), expected, "{sender}");
        }
        // As it is dialled, it leads back to the same mailbox.
        let locations = locations();
        let (back, number) = dialled(&locations, "714930123").expect("a location");
        assert_eq!((back.domain.as_str(), number), ("earlier.example", "4930123"));
    }
}
