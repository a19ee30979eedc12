//! Lists of CPUs as Linux writes them: "0-3,8".

use std::collections::BTreeSet;

/// One more than the highest CPU that a list may name.
pub(crate) const MAX_CPUS: usize = 1024;

/// The CPUs of a list; none of an empty one.
pub(crate) fn parse(list: &str) -> Result<BTreeSet<usize>, String> {
    let refuse =
        |part: &str| format!("\"{part}\" is no CPU and no range of them; write a list like 0-3,8, below {MAX_CPUS}");
    let mut cpus = BTreeSet::new();
    if list.trim().is_empty() {
        return Ok(cpus);
    }
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse().ok().filter(|cpu| *cpu < MAX_CPUS);
        let range: Option<(usize, usize)> = number(first).zip(number(last));
        let (first, last) = range.filter(|(first, last)| first <= last).ok_or_else(|| refuse(part))?;
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// The list of CPUs.
pub(crate) fn format(cpus: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_as_linux_does() {
        for (list, shown) in [("", ""), (" 0-3, 8\n", "0-3,8"), ("5,4,4-6", "4-6"), ("1023", "1023")] {
            assert_eq!(format(&parse(list).unwrap()), shown, "{list:?}");
        }
        assert_eq!(parse("0-3,8").unwrap(), [0, 1, 2, 3, 8].into());
    }

    #[test]
    fn what_is_no_list_is_told() {
        for (list, part) in
            [("a", "\"a\""), ("3-1", "\"3-1\""), ("0,,1", "\"\""), ("0-1024", "\"0-1024\""), ("-1", "\"-1\"")]
        {
            let message = parse(list).unwrap_err();
            assert!(message.contains(part) && message.contains("0-3,8"), "{message}");
        }
    }
}
