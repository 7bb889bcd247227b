package erofs

// placer gives records of the metadata area their slots. A record of at most a block
// lies within one block, as inline data must; a longer one starts a block. Space that a
// record leaves is filled by later ones that fit it best.
type placer struct {
	blocks uint32
	// open holds, for each number of free slots, the blocks that have so many, at their
	// end.
	open [blockSize / slotSize][]uint32
}

const slotsPerBlock = blockSize / slotSize

// place returns the slot for a record of size bytes.
func (p *placer) place(size int) uint32 {
	slots := (size + slotSize - 1) / slotSize
	if slots < slotsPerBlock {
		for free := slots; free < slotsPerBlock; free++ {
			if n := len(p.open[free]); n > 0 {
				block := p.open[free][n-1]
				p.open[free] = p.open[free][:n-1]
				p.leave(block, free-slots)
				return (block+1)*slotsPerBlock - uint32(free)
			}
		}
	}
	first := p.blocks
	p.blocks += uint32((slots + slotsPerBlock - 1) / slotsPerBlock)
	p.leave(p.blocks-1, int(p.blocks-first)*slotsPerBlock-slots)
	return first * slotsPerBlock
}

func (p *placer) leave(block uint32, free int) {
	if free > 0 {
		p.open[free] = append(p.open[free], block)
	}
}
