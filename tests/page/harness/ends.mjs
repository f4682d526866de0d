const stacks = new WeakMap()

/** Has `end` done after the test, the last one first, whatever becomes of the test and of the others. */
export function atEnd(t, end) {
  if (!stacks.has(t)) {
    const stack = []
    stacks.set(t, stack)
    t.after(async () => {
      const faults = []
      for (const end of stack.reverse()) {
        try {
          await end()
        } catch (fault) {
          faults.push(fault)
        }
      }
      if (faults.length > 0) {
        throw faults[0]
      }
    })
  }
  stacks.get(t).push(end)
}
