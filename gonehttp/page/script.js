'use strict';
// All text comes into the page as textContent, never as HTML: ids may be anything.

const $ = id => document.getElementById(id);
const bare = addr => addr.replace(/^tcp:\/\//, '');
const plural = (n, one, many) => n.toLocaleString('en') + ' ' + (n === 1 ? one : many || one + 's');

function lasts(ms) {
	const s = Math.floor(ms / 1000);
	if (ms < 1000) return Math.round(ms) + ' ms';
	if (ms < 10000) return (ms / 1000).toFixed(1) + ' s';
	if (s < 60) return s + ' s';
	if (s < 3600) return Math.floor(s / 60) + ' m ' + s % 60 + ' s';
	if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' m';
	return Math.floor(s / 86400) + ' d ' + Math.floor(s % 86400 / 3600) + ' h';
}

function clock(iso) {
	const d = new Date(iso), two = n => String(n).padStart(2, '0');
	return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

// unheard says, where not every node has answered, that what is not shown may be all the same.
function unheard(v) {
	const mute = v.Nodes.filter(n => n.Err).map(n => bare(n.Addr));
	const more = mute.length > 3 ? ` and ${mute.length - 3} more` : '';
	return [mute.length && `No answer from ${mute.slice(0, 3).join(', ')}${more}.`, !v.Whole && 'There may be nodes that are not shown.'].filter(Boolean).join(' ');
}

// el makes an element; its children are elements and text.
function el(name, className, ...children) {
	const e = document.createElement(name);
	if (className) e.className = className;
	e.append(...children);
	return e;
}

function set(e, text) {
	if (e.textContent !== text) e.textContent = text;
}

// keep makes parent's children those of items. What is there stays, with its focus.
function keep(parent, items, key, make, update) {
	const old = new Map();
	for (const e of [...parent.children]) {
		if (old.has(e.dataset.key)) e.remove(); // two items had one key
		old.set(e.dataset.key, e);
	}
	const focus = document.activeElement;
	items.forEach((item, i) => {
		const k = key(item);
		let e = old.get(k);
		if (e) old.delete(k);
		else {
			e = make(item);
			e.dataset.key = k;
		}
		if (parent.children[i] !== e) parent.insertBefore(e, parent.children[i] || null);
		if (update) update(e, item);
	});
	for (const e of old.values()) e.remove();
	if (focus !== document.activeElement && focus.isConnected) focus.focus({preventScroll: true}); // it was moved
}

// Troubles.

let announced = '';

function showTroubles(v) {
	const troubles = v.Troubles || [];
	$('troubles').hidden = false;
	$('well').hidden = troubles.length > 0;
	keep($('trouble-list'), troubles, t => t.What, t => {
		const li = el('li', t.Minor ? 'minor' : '', el('strong', '', t.Minor ? '△ Note:' : '⚠ Trouble:'), ' ', el('span', 'what', t.What), ' ', el('span', 'do', t.Do));
		li.append(el('span', 'at'));
		return li;
	}, (li, t) => {
		const at = t.Nodes ? 'At ' + (t.Nodes.length === v.Nodes.length && t.Nodes.length > 1 ? 'every node' : t.Nodes.map(bare).join(', ')) : '';
		set(li.lastChild, [at, t.Since && 'since ' + clock(t.Since)].filter(Boolean).join(', '));
	});
	const news = troubles.length ? plural(troubles.length, 'trouble') + ': ' + troubles.map(t => t.What).join(' ') : 'Nothing is wrong.';
	if (news !== announced) set($('news'), announced = news);
}

// Nodes.

function makeNode(n) {
	const bar = el('span', 'bar', el('i'), el('b'));
	bar.setAttribute('aria-hidden', 'true');
	const name = el('th', 'addr', bare(n.Addr));
	name.scope = 'row';
	const tr = el('tr', '', name, el('td', 'state'), el('td', 'wide', el('span', 'share', bar, el('span'))),
		el('td', 'num'), el('td', 'num less'), el('td', 'num'), el('td', 'num less'), el('td', 'steer num'));
	const button = el('button');
	button.type = 'button';
	button.onclick = () => steerNode(tr.node);
	tr.lastChild.append(button);
	return tr;
}

function showNode(tr, n, v) {
	const [name, state, share, held, standby, waiting, up, steer] = tr.children;
	tr.node = n;
	if (n.Addr === v.By && name.children.length === 0) name.append(el('span', 'tag', 'this one'));
	state.className = 'state ' + (n.Err ? 'mute' : n.Draining ? 'drains' : 'runs');
	state.title = n.Err || '';
	set(state, n.Err ? '✕ no answer' : n.Draining ? '◌ drains' : n.Weight === 0 ? '◌ weight 0' : '● runs');
	const [bar, percent] = share.firstChild.children;
	bar.hidden = !!n.Err;
	bar.children[0].style.width = 100 * n.Share + '%';
	bar.children[1].style.left = 100 * n.Fair + '%';
	bar.children[1].hidden = n.Fair === 0;
	set(percent, n.Err ? '' : Math.round(100 * n.Share) + ' %');
	const say = text => n.Err ? '–' : text;
	set(held, say(n.Held.toLocaleString('en')));
	set(standby, say(n.Standby.toLocaleString('en')));
	set(waiting, say(n.Waiting.toLocaleString('en')));
	waiting.classList.toggle('busy', n.Waiting > 0);
	set(up, say(lasts(n.Up)));
	steer.hidden = !v.Control;
	const button = steer.firstChild;
	set(button, n.Draining ? 'Resume' : 'Drain');
	button.setAttribute('aria-label', button.textContent + ' ' + bare(n.Addr));
	button.disabled = !n.Control;
	button.title = n.Err ? 'This node does not answer.' : n.Control ? '' : 'This node was not started with WithControl.';
}

function showNodes(v) {
	document.querySelector('#nodes thead .steer').hidden = !v.Control;
	keep(document.querySelector('#nodes tbody'), v.Nodes, n => n.Addr, makeNode, (tr, n) => showNode(tr, n, v));
}

// Ids.

const form = $('search');

function makeRow(r) {
	const link = el('a', 'id', r.ID);
	link.href = '?id=' + r.Key;
	const bar = el('span', 'bar', el('i'));
	bar.setAttribute('aria-hidden', 'true');
	const narrow = el('span', 'at addr', bare(r.Node)); // where there is no room for the holder's column
	const name = el('th', '', link, narrow);
	name.scope = 'row';
	return el('tr', '', name, el('td', 'addr'), el('td', 'num less token'), el('td', 'num less'),
		el('td', 'lease', el('span', 'left', el('span', '', el('span'), el('span', 'hidden')), bar)), el('td', 'num'), el('td', 'num less'));
}

function showRow(tr, r) {
	const [, node, token, age, , waiting, received] = tr.children;
	tr.row = r;
	tr.at = performance.now();
	set(node, bare(r.Node));
	set(token, r.Token);
	set(age, lasts(r.Age));
	set(waiting, r.Waiting ? r.Waiting.toLocaleString('en') : '0');
	waiting.classList.toggle('busy', r.Waiting > 0);
	waiting.title = r.WaitingBytes ? r.WaitingBytes.toLocaleString('en') + ' bytes' : '';
	set(received, r.Received.toLocaleString('en'));
	runDown(tr);
}

// runDown shows what is left of a lease now. It was so much when it was shown last. That
// none is left by this clock says nothing: it may have been extended since.
function runDown(tr) {
	const r = tr.row, passed = performance.now() - tr.at, left = Math.max(0, r.Left - passed);
	const [text, bar] = tr.children[4].firstChild.children, unknown = left === 0 && !r.Stopping;
	tr.classList.toggle('low', left < r.TTL / 3 && !unknown);
	tr.classList.toggle('over', !!r.Stopping);
	const [seen, said] = text.children;
	seen.ariaHidden = String(unknown);
	set(seen, r.Stopping ? 'stops' : unknown ? '…' : lasts(left).replace(/^(\d)\.\d/, (m, d) => left < 3000 ? m : d));
	set(said, unknown ? 'not known' : '');
	text.title = unknown ? 'Not known: the last answer of its node is too old to tell.' : '';
	bar.firstChild.style.width = Math.min(100, 100 * left / r.TTL) + '%';
	set(tr.children[3], lasts(r.Age + passed));
}

setInterval(() => document.querySelectorAll('#rows tbody tr').forEach(runDown), 500);

function showIDs(v) {
	const ids = v.IDs;
	$('ids').hidden = !ids;
	if (!ids) return;
	keep(document.querySelector('#rows tbody'), ids.Rows, r => r.Key + ' ' + r.Token + ' ' + r.Node, makeRow, showRow);
	const all = ids.Found === ids.All;
	set($('found'), all ? plural(ids.All, 'id') : `${ids.Found.toLocaleString('en')} of ${plural(ids.All, 'id')}`);
	$('none').hidden = ids.Found > 0;
	const mute = unheard(v);
	set($('none'), [ids.All ? `No id that is ${mute ? 'known to be ' : ''}held is like that.` : mute ? 'No node that answers holds an id.' : 'Nobody holds an id.', mute].join(' ').trim());
	$('pager').hidden = ids.Pages < 2;
	set($('where'), `${ids.Page} of ${ids.Pages}`);
	$('previous').disabled = ids.Page <= 1;
	$('next').disabled = ids.Page >= ids.Pages;
	page = ids.Page;
	const chosen = form.node.value || params.get('node') || '';
	keep(form.node, [{Addr: ''}, ...v.Nodes], n => n.Addr, n => {
		const o = el('option', '', n.Addr ? bare(n.Addr) : 'all');
		o.value = n.Addr;
		return o;
	});
	if (form.node.value !== chosen) form.node.value = chosen;
}

// The story of an id.

function tenure(p) {
	const now = !p.Ended;
	const ran = now ? p.Age : new Date(p.Ended) - new Date(p.Since);
	const li = el('li', now ? 'now' : '',
		el('p', '', el('span', 'addr', bare(p.Node)), ' for ', el('b', '', lasts(ran)), el('span', 'muted', '  token ' + p.Token)),
		el('p', 'when', clock(p.Since) + (now ? ' until now' : ' – ' + clock(p.Ended))));
	if (!now) li.append(el('p', '', 'Ended: ' + p.Cause.replace(/gone: /g, '')));
	return li;
}

function showStory(v) {
	const s = v.Story;
	$('story').hidden = !s;
	$('cluster-nodes').hidden = !!s;
	if (!s) return;
	set($('story-title'), s.ID);
	$('story-title').className = 'id';
	document.title = s.ID + ' – gone';
	const now = s.Now[0], mute = unheard(v);
	const holder = !now ? mute ? 'No node that answers holds it. ' + mute : 'Nobody holds it now.' :
		`Held by ${bare(now.Node)} with token ${now.Token}. Lease left: ${now.Stopping ? 'it stops' : now.Left ? lasts(now.Left) : 'not known'} of ${lasts(now.TTL)}. ` +
		`${plural(now.Waiting, 'message')} in its queue, ${now.Received.toLocaleString('en')} received.`;
	set($('holder'), holder);
	const items = [];
	let after = null;
	for (const p of [...s.Now, ...s.Past]) {
		const gap = after && p.Ended ? new Date(after.Since) - new Date(p.Ended) : 0;
		if (gap > 1000) items.push({gap, Node: p.Node, Since: p.Since}); // not that nobody held it: what a crashed holder knew is lost
		items.push(after = p);
	}
	keep($('tenures'), items, p => [p.gap ? 'gap' : p.Ended ? 'past' : p.Age, p.Node, p.Since].join(' '),
		p => p.gap ? el('li', 'gap') : tenure(p), (li, p) => p.gap && set(li, `No node ${mute ? 'that answers ' : ''}remembers who held it for ${lasts(p.gap)}`));
	$('story-steer').hidden = !v.Control || !now;
	const at = v.Nodes.find(n => now && n.Addr === now.Node);
	$('move').disabled = !at || !at.Control;
	$('move').title = at && at.Control ? '' : 'The holder was not started with WithControl.';
	$('move').onclick = () => steerID(s, v);
}

// Steering.

async function steer(what, body, done) {
	const notice = $('notice');
	notice.hidden = false;
	notice.className = 'notice';
	set(notice, 'Under way …');
	let error;
	try {
		const answer = await fetch(what, {method: 'POST', body, headers: {'Content-Type': 'application/x-www-form-urlencoded'}});
		error = (await answer.json()).Error;
	} catch (e) {
		error = String(e);
	}
	notice.classList.toggle('failed', !!error);
	set(notice, error ? 'It failed: ' + error.replace(/gone: /g, '') : done);
}

function ask(title, text, yes, targets, then) {
	const dialog = $('confirm');
	set($('confirm-title'), title);
	set($('confirm-text'), text);
	set($('yes'), yes);
	$('to').hidden = !targets;
	$('target').replaceChildren(...(targets || []).map(([value, text]) => {
		const o = el('option', '', text);
		o.value = value;
		return o;
	}));
	dialog.returnValue = '';
	dialog.onclose = () => dialog.returnValue === 'yes' && then($('target').value);
	dialog.showModal();
}

function steerNode(n) {
	const addr = bare(n.Addr), body = 'node=' + encodeURIComponent(n.Addr);
	if (n.Draining) return ask(`Resume ${addr}?`, 'It takes its part in holding ids again.', 'Resume', null, () => steer('resume', body, addr + ' holds ids again.'));
	ask(`Drain ${addr}?`, `It hands over the ${plural(n.Held, 'id')} that it holds, and holds none until it is resumed. It goes on sending.`,
		'Drain', null, () => steer('drain', body, addr + ' holds nothing now.'));
}

function steerID(s, v) {
	const others = v.Nodes.filter(n => !n.Err && !n.Draining && n.Weight > 0 && n.Addr !== s.Now[0].Node);
	ask(`Move ${s.ID}?`, 'Its handler is told to return. The other node takes it when that has returned; no message is lost.', 'Move',
		[['', 'whichever has least for its weight'], ...others.map(n => [n.Addr, bare(n.Addr)])],
		to => steer('move', 'id=' + s.Key + '&node=' + encodeURIComponent(to), 'It is moved.'));
}

// Live.

const params = new URLSearchParams(location.search);
let page = Number(params.get('page')) || 1;
let stream = null, again = 0, last = null;

function show(v) {
	set($('cluster'), `${plural(v.Nodes.length, 'node')}, ${unheard(v) && 'at least '}${plural(v.Held, 'id')}` + (v.Cluster ? `, cluster ${v.Cluster}` : ''));
	showTroubles(v);
	showNodes(v);
	showIDs(v);
	showStory(v);
}

function linked(state, text) {
	$('link').className = 'link ' + state;
	set($('link-text'), text);
}

function listen() {
	clearTimeout(again);
	if (stream) stream.close();
	if (document.hidden) return linked('', 'paused');
	stream = new EventSource('events' + location.search); // as it is: an id need not be UTF-8
	stream.onmessage = e => {
		linked('live', 'live');
		show(last = JSON.parse(e.data));
	};
	stream.onerror = () => {
		linked('lost', '✕ no connection to this node, trying again');
		if (stream.readyState === EventSource.CLOSED) again = setTimeout(listen, 3000);
	};
}

// turn goes to what the form says, and to a page of it.
function turn(to) {
	const q = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
	if (to > 1) q.set('page', to);
	history.replaceState(null, '', '?' + q);
	$('json').href = '?' + q + '&format=json';
	listen();
}

let typing = 0;
form.oninput = () => {
	clearTimeout(typing);
	typing = setTimeout(() => turn(1), 150);
};
form.onsubmit = e => {
	e.preventDefault();
	turn(1);
};
$('previous').onclick = () => turn(page - 1);
$('next').onclick = () => turn(page + 1);
form.q.value = params.get('q') || '';
form.sort.value = params.get('sort') || '';
if (location.search) $('json').href = location.search + '&format=json';
document.addEventListener('visibilitychange', listen);
listen();
