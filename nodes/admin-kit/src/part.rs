//! Long lists, split into parts that fit into a reply.

/// Approximate maximum size of a part, in bytes; tonic permits 4 MiB per reply, and an item is far smaller than the
/// rest.
const BYTES: usize = 2 * 1024 * 1024;

/// A part of a list.
pub struct Part<T> {
    /// Items of the part.
    pub items: Vec<T>,
    /// Cursor after which the next part begins; empty for the last part.
    pub next: String,
}

/// Part of `items` after the cursor `after`, at most `limit` items (0: as many as fit). Without a limit it contains
/// all items. Each item has a unique cursor, in list order. `show` is called for the items of the part, and for the
/// one after it.
pub fn part<I, T: prost::Message, E>(
    limit: Option<u32>,
    after: &str,
    items: impl IntoIterator<Item = (String, I)>,
    mut show: impl FnMut(I) -> Result<T, E>,
) -> Result<Part<T>, E> {
    let mut rest: Vec<(String, I)> = items.into_iter().filter(|(cursor, _)| cursor.as_str() > after).collect();
    rest.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    part_of_sorted(limit, rest.into_iter().map(|(cursor, item)| Ok((cursor, show(item)?))))
}

/// As [`part`], of items in the order of their cursors, all behind the cursor of the request. It takes the items that fit, and
/// one more.
pub fn part_of_sorted<T: prost::Message, E>(
    limit: Option<u32>,
    items: impl IntoIterator<Item = Result<(String, T), E>>,
) -> Result<Part<T>, E> {
    let most = match limit {
        None | Some(0) => usize::MAX,
        Some(limit) => limit as usize,
    };
    let mut part = Part { items: Vec::new(), next: String::new() };
    let (mut bytes, mut last) = (0, String::new());
    for item in items {
        let (cursor, item) = item?;
        bytes += item.encoded_len();
        let full = part.items.len() >= most || (limit.is_some() && bytes > BYTES);
        if full && !part.items.is_empty() {
            part.next = last;
            return Ok(part);
        }
        part.items.push(item);
        last = cursor;
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use prost::Message;
    use twinbox_wire::admin::{User, UserListReply};

    use super::*;

    fn of(limit: Option<u32>, after: &str, count: usize, name: &str) -> Part<User> {
        let items = (0..count).rev().map(|n| (format!("{n:05}"), n));
        let show = |n: usize| {
            Ok::<_, Infallible>(User { number: n.to_string(), name: name.to_owned(), ..Default::default() })
        };
        match part(limit, after, items, show) {
            Ok(part) => part,
            Err(never) => match never {},
        }
    }

    #[test]
    fn parts_join_to_the_whole_list_and_each_fits_a_reply() {
        // 20,000 users with the longest names that a table permits: 10 MB.
        let (count, name) = (20_000, "\u{1f600}".repeat(128));
        let (mut seen, mut after, mut parts) = (Vec::new(), String::new(), 0);
        loop {
            let Part { items, next } = of(Some(0), &after, count, &name);
            seen.extend(items.iter().map(|user| user.number.parse::<usize>().unwrap()));
            let reply = UserListReply { users: items, next: next.clone() };
            assert!(reply.encoded_len() < 4 * 1024 * 1024, "{} bytes", reply.encoded_len());
            parts += 1;
            if next.is_empty() {
                break;
            }
            after = next;
        }
        assert!(seen.into_iter().eq(0..count));
        assert!((5..10).contains(&parts), "{parts} parts");
    }

    #[test]
    fn a_part_has_no_more_than_was_asked_for_and_says_whether_there_is_more() {
        for (limit, after, first, length, next) in [
            (Some(3), "", Some("0"), 3, "00002"),
            (Some(3), "00002", Some("3"), 3, "00005"),
            (Some(3), "00006", Some("7"), 3, ""),
            (Some(3), "00009", None, 0, ""),
            (Some(10), "", Some("0"), 10, ""),
            (Some(0), "00003", Some("4"), 6, ""),
            (None, "", Some("0"), 10, ""),
        ] {
            let part = of(limit, after, 10, "");
            let found = part.items.first().map(|user| user.number.as_str());
            assert_eq!((found, part.items.len(), part.next.as_str()), (first, length, next), "{limit:?} {after}");
        }
        // An earlier release requests all items in one part.
        assert_eq!(of(None, "", 20_000, "Ada").items.len(), 20_000);
    }

    #[test]
    fn an_item_larger_than_a_part_still_comes() {
        let name = "x".repeat(BYTES + 1);
        let part = of(Some(0), "", 2, &name);
        assert_eq!((part.items.len(), part.next.as_str()), (1, "00000"));
    }
}
