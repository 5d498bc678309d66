"""Lines of Chinese web pages that are no text: menus, sharing, accounts, advertisements, labels, notices. Pure.

A menu is a short line that consists of menu phrases; a label is what a content system prints before a value; a notice is a
phrase that the law or the site's owner wants on every page. The phrases, written down by hand, are those that Chinese portals,
news and forum systems print; docs/corpus-rules.md says how many lines of clean text each kind removes.
"""

import re
from collections import Counter


def _phrases(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_MENUS = {
    "navigation": _phrases(
        "网站首页 返回首页 回到首页 返回顶部 回到顶部 返回列表 返回上一页 返回目录 回到目录 设为首页 加入收藏 "
        "收藏本站 首页 上一篇 下一篇 上一页 下一页 上一章 下一章 尾页 末页 上一条 下一条 当前位置 您的位置 "
        "您现在的位置 您当前的位置 你的位置 所在位置 站内搜索 站点地图 网站地图 网站导航 友情链接 联系我们 关于我们 "
        "加入我们 诚聘英才 相关阅读 相关推荐 相关文章 相关新闻 相关链接 相关专题 热门推荐 热门文章 热门标签 "
        "热门搜索 热点新闻 猜你喜欢 你可能喜欢 推荐阅读 最新文章 最新评论 随机文章 排行榜 点击排行 展开全文 "
        "阅读全文 查看全文 查看更多 加载更多 点击查看更多 更多 没有了 无 暂无 全部 搜索 目录 返回 跳转 标签 分类 "
        "归档 繁体 简体 English"
    ),
    "sharing": _phrases(
        "分享到 分享至 分享给 一键分享 分享 微信好友 微信 新浪微博 腾讯微博 微博 朋友圈 QQ空间 QQ好友 QQ 人人网 "
        "豆瓣 知乎 复制链接 扫一扫 扫码关注 扫描二维码 二维码 关注我们 关注公众号 微信公众号 官方微信 官方微博 点赞 "
        "点个赞 收藏 转发 打赏 赞赏 举报 反馈 打印本页 打印 关闭窗口 关闭 字号 大中小 大 中 小"
    ),
    "account": _phrases(
        "立即登录 请登录 请先登录 登录后评论 登录 登陆 免费注册 立即注册 注册 忘记密码 找回密码 用户名 密码 验证码 "
        "退出 我的账户 个人中心 会员中心 购物车 发表评论 我要评论 网友评论 全部评论 写评论 评论 回复 匿名用户 "
        "还没有评论 暂无评论 抢沙发"
    ),
    "advertising": _phrases(
        "广告 推广 赞助商链接 立即购买 立即咨询 立即下载 立即抢购 马上抢购 点击购买 点击咨询 点击下载 点击进入 "
        "免费试用 免费咨询 免费领取 限时优惠 限时抢购 在线咨询 在线客服 下载客户端 客户端下载 下载APP 打开APP "
        "APP下载 加盟热线 咨询热线 客服热线 客服电话 服务热线 全国统一热线"
    ),
}
_KIND_OF = {phrase: kind for kind, phrases in _MENUS.items() for phrase in phrases}
_PHRASE = re.compile("|".join(sorted(_KIND_OF, key=len, reverse=True)))
_ALONE = frozenset(_phrases("首页 尾页 末页 上一篇 下一篇 上一页 下一页 上一章 下一章 分享到 写评论 抢沙发"))
"""Short, and still nothing but a menu where they stand alone; 登录, 目录 or 密码 are as likely a heading."""
_LABELS = _phrases(
    "责任编辑 责编 本文编辑 编辑 校对 审核 来源 文章来源 稿源 信息来源 原文链接 本文链接 本文地址 原标题 "
    "发布时间 发布日期 发表时间 更新时间 更新日期 浏览次数 浏览量 浏览 阅读次数 阅读量 阅读数 阅读 点击数 "
    "点击量 点击 人气 评论数 字体 关键词 关键字 标签 上一篇 下一篇 上一条 下一条 当前位置 您的位置 您现在的位置 "
    "您当前的位置 你的位置 所在位置 咨询热线 客服热线 客服电话 服务热线 加盟热线 加微信 微信号 客服QQ QQ群 "
    "举报电话 举报邮箱 投稿邮箱"
)
_LABELLED = re.compile(rf"[\[【（(]?(?:{'|'.join(sorted(_LABELS, key=len, reverse=True))})[ ]?[:：][ ]{{0,4}}\S")
_NOTICE = re.compile(
    "|".join(
        (
            r"ICP[备证][ ]?[0-9]|公网安备|网安备案|版权所有(?![者人权])|版权归.{0,24}所有|保留(?:所有|一切)权利",
            r"(?:[Cc]opyright|COPYRIGHT)[ ]{0,2}(?:©|\([Cc]\)|[0-9]{4})|©[ ]{0,2}[0-9]{4}|^©|All [Rr]ights [Rr]eserved",
            r"未经.{0,16}(?:授权|许可|允许|同意).{0,16}(?:转载|复制|使用)|(?:转载|引用).{0,8}(?:请|须|需).{0,4}注明",
            r"增值电信业务经营许可证|信息服务许可证|网络文化经营许可证|信息网络传播视听节目许可证",
            r"违法和?不良信息举报|免责声明[:：]|如有侵权.{0,24}(?:联系|删除)",
            r"本站(?:所有|部分|内容|文章|图片).{0,24}(?:来自|来源于|转载自|收集自)(?:互联网|网络)",
        )
    )
)
_LETTER = re.compile(r"[^\W\d_]")
_SENTENCE_ENDS = ("。", "！", "？", "，", "；")
_MENU_CHARS, _LABEL_CHARS, _NOTICE_CHARS = 80, 60, 120
"""Longest line of each kind. The patterns look at no longer line, so their time per line has a bound."""


def boilerplate_rule(line: str) -> str | None:
    """What kind of boilerplate a line is: navigation, sharing, account, advertising, label, notice; None for text."""
    line = line.strip()
    if len(line) <= _NOTICE_CHARS and _NOTICE.search(line):
        return "notice"
    if len(line) > _MENU_CHARS or line.endswith(_SENTENCE_ENDS):
        return None
    if len(line) <= _LABEL_CHARS and _LABELLED.match(line):
        return "label"
    phrases = _PHRASE.findall(line)
    if not phrases or sum(map(len, phrases)) < 0.8 * len(_LETTER.findall(line)):
        return None
    if len(phrases) == 1 and len(phrases[0]) < 4 and phrases[0] not in _ALONE:
        return None
    return Counter(_KIND_OF[phrase] for phrase in phrases).most_common(1)[0][0]
