//! What the built programs cost and how they are made: the verifier's work, and calls of byte loops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::lab::Lab;
use aya::programs::ProgramInfo;
use lb_common::maps::progs;
use lb_user::datapath::load::{EMBEDDED_OBJECT, object_hash};
use lb_user::datapath::pins::Pins;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// How far a program may be from its stored count, in percent, before somebody has to look.
const TOLERANCE_PERCENT: u64 = 25;
/// Set it to have the counts of this build stored.
const UPDATE_VARIABLE: &str = "FAIRWAY_UPDATE_BUDGETS";

fn budget_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/datapath/verified_insns.txt")
}

fn stored() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(budget_file()).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, count) = line.split_once(' ').expect("name and count");
            (name.to_owned(), count.trim().parse().expect("a count"))
        })
        .collect()
}

fn store(counts: &BTreeMap<String, u64>) {
    let mut text = String::from(
        "# Instructions the verifier looked at, per program (bpf_prog_info.verified_insns).\n\
         # Written by FAIRWAY_UPDATE_BUDGETS=1 cargo xtask test -p lb-user -- budget\n",
    );
    for (name, count) in counts {
        writeln!(text, "{name} {count}").expect("writing to a string");
    }
    std::fs::write(budget_file(), text).expect("the budget file can be written");
}

#[test]
fn no_program_costs_the_verifier_much_more_or_less_than_its_budget() {
    Lab::run(|lab| {
        let _datapath = lab.open().expect("opens");
        let dir = Pins::new(&lab.bpffs()).progs.join(object_hash(EMBEDDED_OBJECT));
        let counts: BTreeMap<String, u64> = progs::ALL
            .iter()
            .map(|name| {
                let info = ProgramInfo::from_pin(dir.join(name)).expect("pinned");
                (name.to_string(), info.verified_instruction_count().expect("the kernel counts").into())
            })
            .collect();
        if std::env::var_os(UPDATE_VARIABLE).is_some() {
            store(&counts);
        }
        let budgets = stored();
        let mut wrong = Vec::new();
        for (name, count) in &counts {
            match budgets.get(name) {
                None => wrong.push(format!("{name}: {count} instructions verified, no budget stored")),
                Some(budget) if count.abs_diff(*budget) * 100 > budget * TOLERANCE_PERCENT => {
                    wrong.push(format!("{name}: {count} instructions verified, the budget is {budget}"));
                }
                Some(_) => {}
            }
        }
        wrong.extend(budgets.keys().filter(|n| !counts.contains_key(*n)).map(|n| format!("{n}: no program")));
        assert!(
            wrong.is_empty(),
            "{}\nThe verifier stops at 1,000,000. If the change is meant, store the new counts with \
             `{UPDATE_VARIABLE}=1 cargo xtask test -p lb-user -- budget` and commit {}.",
            wrong.join("\n"),
            budget_file().display()
        );
    });
}

/// The functions of the object and whom each calls.
struct Calls {
    names: HashMap<(SectionIndex, u64), String>,
    callees: BTreeMap<String, BTreeSet<String>>,
}

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// Source register of a call to another function of the object instead of a helper.
const PSEUDO_CALL: u8 = 1;
const INSN_BYTES: u64 = 8;

impl Calls {
    fn of(bytes: &[u8]) -> Calls {
        let elf = ElfFile64::<object::Endianness>::parse(bytes).expect("an ELF object");
        let mut calls = Calls { names: HashMap::new(), callees: BTreeMap::new() };
        let functions = || elf.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0);
        for symbol in functions() {
            let section = symbol.section_index().expect("a function lies in a section");
            calls.names.insert((section, symbol.address()), symbol.name().expect("UTF-8").to_owned());
        }
        for symbol in functions() {
            let name = symbol.name().expect("UTF-8").to_owned();
            let callees = calls.made_by(&elf, &symbol);
            calls.callees.insert(name, callees);
        }
        calls
    }

    fn made_by<'d>(
        &self,
        elf: &ElfFile64<'d, object::Endianness>,
        function: &impl ObjectSymbol<'d>,
    ) -> BTreeSet<String> {
        let index = function.section_index().expect("in a section");
        let section = elf.section_by_index(index).expect("the section");
        let code = section.data().expect("its code");
        let relocations: BTreeMap<u64, RelocationTarget> =
            section.relocations().map(|(at, r)| (at, r.target())).collect();
        let mut callees = BTreeSet::new();
        let range = function.address()..function.address() + function.size();
        for at in range.step_by(INSN_BYTES as usize) {
            let insn = &code[at as usize..(at + INSN_BYTES) as usize];
            if insn[0] != CALL || insn[1] >> 4 != PSEUDO_CALL {
                continue;
            }
            let imm = i64::from(i32::from_le_bytes(insn[4..8].try_into().expect("four bytes")));
            // The operand counts instructions behind the call; with a relocation, behind its symbol.
            let target = match relocations.get(&at) {
                Some(RelocationTarget::Symbol(symbol)) => {
                    let symbol = elf.symbol_by_index(*symbol).expect("the symbol");
                    let base = symbol.address() as i64 + (imm + 1) * INSN_BYTES as i64;
                    (symbol.section_index().expect("in a section"), base as u64)
                }
                _ => (index, (at as i64 + (imm + 1) * INSN_BYTES as i64) as u64),
            };
            let name = self.names.get(&target);
            callees.insert(name.unwrap_or_else(|| panic!("a call to nowhere: {target:x?}")).clone());
        }
        callees
    }

    /// Every function that runs when `program` does.
    fn reached_from(&self, program: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![program];
        while let Some(name) = next.pop() {
            let (name, callees) = self.callees.get_key_value(name).unwrap_or_else(|| panic!("no {name}"));
            if reached.insert(name.as_str()) {
                next.extend(callees.iter().map(String::as_str));
            }
        }
        reached
    }
}

#[test]
fn no_program_calls_a_byte_loop() {
    assert!(!EMBEDDED_OBJECT.is_empty(), "no kernel object: run the tests by cargo xtask test");
    let calls = Calls::of(EMBEDDED_OBJECT);
    let loops = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
    // The compiler's runtime brings them along, so a search that finds none searches wrongly.
    assert!(calls.callees.contains_key("memcpy"), "{:?}", calls.callees.keys());
    for program in progs::ALL {
        let reached = calls.reached_from(program);
        let found: Vec<_> = loops.iter().filter(|name| reached.contains(*name)).collect();
        assert!(found.is_empty(), "{program} calls {found:?}, a loop over bytes in a subprogram");
    }
    let slow = calls.reached_from(progs::TC_SLOW[0]);
    assert!(slow.len() > 2, "the slow program has subprograms, and the search follows calls: {slow:?}");
}
