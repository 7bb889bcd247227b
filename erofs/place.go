package erofs

// placer gives records of the metadata area their units. A record of at most a block
// lies within one block, as inline data must; a longer one starts a block. Space that a
// record leaves is filled by later ones that fit it best.
type placer struct {
	blocks uint32
	// open holds, for each number of free units, the blocks that have so many, at their
	// end.
	open [blockSize / nidUnit][]uint32
}

const unitsPerBlock = blockSize / nidUnit

// place returns the unit for a record of size bytes.
func (p *placer) place(size int) uint32 {
	units := (size + nidUnit - 1) / nidUnit
	if units < unitsPerBlock {
		for free := units; free < unitsPerBlock; free++ {
			if n := len(p.open[free]); n > 0 {
				block := p.open[free][n-1]
				p.open[free] = p.open[free][:n-1]
				p.leave(block, free-units)
				return (block+1)*unitsPerBlock - uint32(free)
			}
		}
	}
	first := p.blocks
	p.blocks += uint32((units + unitsPerBlock - 1) / unitsPerBlock)
	p.leave(p.blocks-1, int(p.blocks-first)*unitsPerBlock-units)
	return first * unitsPerBlock
}

func (p *placer) leave(block uint32, free int) {
	if free > 0 {
		p.open[free] = append(p.open[free], block)
	}
}
