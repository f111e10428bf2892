//! Messages as plain text, read without the product's parsers: for the reference model and the simulated origin.

/// Field lines in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub Vec<(String, String)>);

impl Fields {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
            .collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub(crate) fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_string(), value.into()));
    }

    /// RFC 9111 §3.2; RFC 9110 §6.6.1: a message without Date gets the time of its receipt.
    pub(crate) fn updated(&self, update: &Fields, received_at: i64) -> Fields {
        let mut update = update.clone();
        if update.get("date").is_none() {
            update.add("Date", format_date(received_at));
        }
        let kept = ["content-length", "content-encoding", "content-range", "connection", "x-hop"];
        update.0.retain(|(name, _)| !kept.contains(&&*name.to_ascii_lowercase()));
        let mut all = self.clone();
        // Age belongs to the message that brought it.
        all.0.retain(|(name, _)| update.get(name).is_none() && !name.eq_ignore_ascii_case("age"));
        all.0.extend(update.0);
        all
    }

    /// Reads the lines behind the first.
    pub(crate) fn parse(head: &str) -> Fields {
        let lines = head.split("\r\n").skip(1).take_while(|line| !line.is_empty());
        let split =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_string(), value.to_string()));
        Fields(lines.map(|line| split(line).expect("a head has field lines")).collect())
    }
}

/// A viewer's request as the model looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// Host and path with query.
    pub(crate) uri: String,
    pub(crate) fields: Fields,
    pub(crate) has_body: bool,
}

impl Request {
    /// The cache has no part in it.
    pub(crate) fn passes(&self) -> bool {
        !matches!(self.method, "GET" | "HEAD")
            || self.has_body
            || self.fields.get("x-http-method-override").is_some()
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.fields.get("if-match").is_some() || self.fields.get("if-unmodified-since").is_some()
    }

    /// Rule 11: lines are joined, members trimmed, languages compared without case.
    pub(crate) fn selecting(&self, name: &str) -> Option<String> {
        selecting(&self.fields, name)
    }

    /// RFC 9111 §5.2.1, §5.4.
    pub(crate) fn directives(&self) -> Vec<(String, Option<String>)> {
        match self.fields.get("cache-control") {
            Some(text) => members(text),
            None => members(self.fields.get("pragma").unwrap_or_default()),
        }
    }

    /// The URIs that a successful unsafe request makes invalid.
    pub(crate) fn touched(&self, answer: &Fields) -> Vec<String> {
        let named = ["location", "content-location"].into_iter().filter_map(|name| answer.get(name));
        let host = self.uri.split('/').next().unwrap();
        let resolved =
            named.map(|reference| self.resolve(reference)).filter(|uri| uri.split('/').next() == Some(host));
        [self.uri.clone()].into_iter().chain(resolved).collect()
    }

    /// Only absolute URIs and absolute paths are generated.
    pub(crate) fn resolve(&self, reference: &str) -> String {
        let host = self.uri.split('/').next().unwrap();
        match reference.strip_prefix("http://") {
            Some(absolute) => absolute.to_string(),
            None => format!("{host}{reference}"),
        }
    }
}

pub(crate) fn selecting(fields: &Fields, name: &str) -> Option<String> {
    let lines = fields.all(name);
    let trimmed =
        lines.join(",").split(',').map(|member| member.trim().to_string()).collect::<Vec<_>>().join(",");
    let value =
        if name.eq_ignore_ascii_case("accept-language") { trimmed.to_ascii_lowercase() } else { trimmed };
    (!lines.is_empty()).then_some(value)
}

/// Members of a list with their arguments; commas in quotes do not separate.
pub(crate) fn members(text: &str) -> Vec<(String, Option<String>)> {
    let mut quoted = false;
    let separates = |character: char| {
        quoted ^= character == '"';
        character == ',' && !quoted
    };
    let all = text.split(separates).map(str::trim).filter(|member| !member.is_empty());
    all.map(|member| match member.split_once('=') {
        Some((name, argument)) => (name.to_ascii_lowercase(), Some(argument.to_string())),
        None => (member.to_ascii_lowercase(), None),
    })
    .collect()
}

/// Reads an IMF-fixdate.
pub(crate) fn date(text: &str) -> Option<i64> {
    let parts: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = parts[..] else { return None };
    let number = |text: &str| text.parse::<i64>().ok();
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(month)? as i64 / 3 + 1;
    let (year, month) = if month <= 2 { (number(year)? - 1, month + 9) } else { (number(year)?, month - 3) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(day)? - 1 - 719_468;
    Some(((days * 24 + number(hour)?) * 60 + number(minute)?) * 60 + number(second)?)
}

pub(crate) fn format_date(at: i64) -> String {
    String::from_utf8(aspis_wire::date::format(at as u64).to_vec()).unwrap()
}
