//! Makes a text unique without changing what it asks, so that caches of texts cannot help the node.
//!
//! People open and close their messages in many ways, and sign them. The n-th use of a text gets an opener, a closer and a name of its
//! own; when all wordings are used up, a message number is added behind them.

const OPENERS: [&str; 32] = [
    "Hello,",
    "Hi,",
    "Hey,",
    "Good morning,",
    "Good afternoon,",
    "Good evening,",
    "Hi there,",
    "Hello there,",
    "Dear team,",
    "Dear support,",
    "Excuse me,",
    "Sorry to bother you,",
    "Quick question:",
    "One question:",
    "I have a question:",
    "Please help:",
    "Can you help me?",
    "Hello again,",
    "It's me again,",
    "Hi team,",
    "Good day,",
    "Greetings,",
    "Hey there,",
    "Hello support,",
    "Sorry,",
    "Just wondering:",
    "Short question:",
    "May I ask something?",
    "Could you help?",
    "Hi again,",
    "Dear all,",
    "Morning,",
];

const CLOSERS: [&str; 32] = [
    "thanks",
    "thank you",
    "thanks in advance",
    "thank you very much",
    "thanks a lot",
    "many thanks",
    "please",
    "please let me know",
    "cheers",
    "best regards",
    "kind regards",
    "regards",
    "best wishes",
    "thanks for your help",
    "thank you for your help",
    "I appreciate it",
    "much appreciated",
    "have a nice day",
    "have a good day",
    "all the best",
    "bye",
    "greetings",
    "thanks so much",
    "thank you so much",
    "please help",
    "please answer soon",
    "please reply",
    "thx",
    "many thanks in advance",
    "with kind regards",
    "yours",
    "have a great day",
];

const NAMES: [&str; 32] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Maria", "Nick",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Adam", "Bella", "Carl", "Dora", "Eric", "Fiona",
    "George", "Helen", "Ivan", "Julia", "Karl",
];

/// How many wordings there are before message numbers are added.
pub(crate) const WORDINGS: u64 = (OPENERS.len() * CLOSERS.len() * NAMES.len()) as u64;

/// The text's wording number `nth`: another one for each number.
pub(crate) fn reworded(text: &str, nth: u64) -> String {
    let (number, round) = (nth % WORDINGS, nth / WORDINGS);
    // A step without a factor in common with the number of wordings visits all of them, and neighbours differ in every part.
    let number = (number * 13_397 % WORDINGS) as usize;
    let opener = OPENERS[number % OPENERS.len()];
    let closer = CLOSERS[number / OPENERS.len() % CLOSERS.len()];
    let name = NAMES[number / OPENERS.len() / CLOSERS.len()];
    match round {
        0 => format!("{opener} {text} {closer}, {name}"),
        _ => format!("{opener} {text} {closer}, {name} (message {round})"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_wording_comes_twice_and_each_holds_the_text() {
        let wordings: HashSet<String> = (0..2 * WORDINGS + 9).map(|nth| reworded("where is my order?", nth)).collect();
        assert_eq!(wordings.len() as u64, 2 * WORDINGS + 9);
        assert!(wordings.iter().all(|wording| wording.contains(" where is my order? ") && wording.len() < 95));
    }

    #[test]
    fn neighbours_differ_in_every_part() {
        let parts = |nth| reworded("|", nth).split([' ', ',']).map(str::to_owned).collect::<Vec<_>>();
        let (one, other) = (parts(7), parts(8));
        assert!(one.first() != other.first() && one.last() != other.last(), "{one:?} {other:?}");
    }
}
