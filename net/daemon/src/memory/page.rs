//! `GET /v1/memory`: the limit, what is taken of it by purpose, what the kernel says, and how full each core's arena is.
//!
//! All figures are read when they are asked for; those of the cores are at most half a second old while a core works.

use std::sync::Arc;

use aspis_storage::budget::{Budget, Purpose};
use aspis_telemetry::{CoreCounters, Counter};

use super::watch;
use crate::metrics::Level;
use crate::process;

/// What the page is made of.
pub(crate) struct MemoryPage {
    budget: Arc<Budget>,
    counters: Vec<Arc<CoreCounters>>,
}

impl std::fmt::Debug for MemoryPage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "MemoryPage of {} cores", self.counters.len())
    }
}

impl MemoryPage {
    /// Makes the page of one account and the counters of the cores.
    pub(crate) fn new(budget: Arc<Budget>, counters: Vec<Arc<CoreCounters>>) -> Self {
        MemoryPage { budget, counters }
    }

    /// Returns the page as JSON.
    pub(crate) fn json(&self) -> String {
        self.json_with(process::private_len())
    }

    fn json_with(&self, resident: u64) -> String {
        let budget = &self.budget;
        let purposes: Vec<String> = Purpose::ALL
            .iter()
            .map(|purpose| format!("    \"{}\": {}", purpose.name(), budget.used(*purpose)))
            .collect();
        let cores: Vec<String> = self.counters.iter().map(|core| core_json(core)).collect();
        format!(
            "{{\n  \"limit_bytes\": {},\n  \"used_bytes\": {},\n  \"withheld_bytes\": {},\n  \"resident_bytes\": {resident},\n  \
             \"base_bytes\": {},\n  \"unaccounted_bytes\": {},\n  \"purposes\": {{\n{}\n  }},\n  \"cores\": [\n{}\n  ]\n}}\n",
            budget.limit(),
            budget.used_total(),
            budget.withheld(),
            watch::base(self.counters.len()),
            resident.saturating_sub(budget.used_total()),
            purposes.join(",\n"),
            cores.join(",\n"),
        )
    }

    /// Returns the same figures for `/metrics`, without those that the cores count themselves.
    pub(crate) fn levels(&self) -> Vec<Level> {
        let budget = &self.budget;
        let purposes = Purpose::ALL.iter().map(|&purpose| Level {
            name: "memory_used_bytes",
            help: "Memory charged to the limit, by purpose.",
            label: Some(("purpose", purpose.name().into())),
            value: budget.used(purpose),
        });
        let resident = process::private_len();
        let totals = [
            ("memory_limit_bytes", "The memory limit.", budget.limit()),
            (
                "memory_unaccounted_bytes",
                "Resident private memory beyond what is charged to the limit.",
                resident.saturating_sub(budget.used_total()),
            ),
            (
                "memory_withheld_bytes",
                "What of the limit is not used because resident memory was over limit and base.",
                budget.withheld(),
            ),
            (
                "memory_base_bytes",
                "What the process may have beside the limit.",
                watch::base(self.counters.len()),
            ),
        ];
        let totals = totals.map(|(name, help, value)| Level { name, help, label: None, value });
        purposes.chain(totals).collect()
    }
}

fn core_json(core: &CoreCounters) -> String {
    let value = |counter| core.value(counter);
    let (held, resident) = (value(Counter::ArenaHeld), value(Counter::ArenaResident));
    let part = if resident > 0 { held as f64 / resident as f64 } else { 0.0 };
    format!(
        "    {{\"arena_capacity_bytes\": {}, \"arena_resident_bytes\": {resident}, \"arena_held_bytes\": {held}, \
         \"arena_use\": {part:.4}, \"limbo_bytes\": {}, \"responses\": {}}}",
        value(Counter::ArenaCapacity),
        value(Counter::CacheLimbo),
        value(Counter::CacheResponses),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_account_says() {
        let budget = Budget::new(100 << 20);
        let _heads = budget.reserve(Purpose::Heads, 12_345).unwrap();
        let core = Arc::new(CoreCounters::new());
        for (counter, value) in
            [(Counter::ArenaCapacity, 4000), (Counter::ArenaResident, 2000), (Counter::ArenaHeld, 1900)]
        {
            core.set(counter, value);
        }
        let page = MemoryPage::new(Arc::clone(&budget), vec![core, Arc::new(CoreCounters::new())]);
        let json = page.json_with(50_000);
        for text in [
            "\"limit_bytes\": 104857600,",
            "\"used_bytes\": 12345,",
            "\"resident_bytes\": 50000,",
            "\"unaccounted_bytes\": 37655,",
            "\"heads\": 12345,",
            "\"arena_resident_bytes\": 2000, \"arena_held_bytes\": 1900, \"arena_use\": 0.9500,",
            "\"arena_use\": 0.0000,",
        ] {
            assert!(json.contains(text), "no {text} in {json}");
        }
        for purpose in Purpose::ALL {
            assert!(json.contains(&format!("\"{}\": ", purpose.name())));
        }
        assert!(json.matches('{').count() == json.matches('}').count() && !json.contains(",\n  }"));
    }
}
